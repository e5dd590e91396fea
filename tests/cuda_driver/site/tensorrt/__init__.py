"""What `import tensorrt` finds in a process on the stand-in driver: see `emulated_compiler`."""

import os

from edge.preprocess import cuda
from tests.cuda_driver import emulated_compiler, standin
from tests.preprocess.kernel.build import compiled

# NVRTC's image of the kernel is for a GPU; the stand-in loads the kernel compiled as C++.
cuda.kernel_image = lambda *_: os.fsencode(compiled(standin.BUILD))

_trt = emulated_compiler.Compiler(standin.Driver())


def __getattr__(name: str) -> object:
    return getattr(_trt, name)
