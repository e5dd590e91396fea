"""The resources of preprocess.cu on each GPU architecture: registers, and spilled bytes.

    .venv/bin/python -m scripts.gpu.kernel_resources > docs/measurements/kernel.json

NVRTC compiles for each compute capability with ptxas -v; no GPU is needed.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys

from edge.gpu.kernels import OPTIONS, Nvrtc
from edge.preprocess.cuda import SOURCE

CAPABILITIES = ("7.5", "8.7", "9.0", "11.0", "12.0")  # Turing, Orin, Hopper, Thor, Blackwell


def resources(compiler: Nvrtc, capability: str) -> dict[str, dict[str, int]]:
    """For each kernel registers per thread, and stack, spill_stores, spill_loads in bytes."""
    program = ctypes.c_void_p()
    text, name = SOURCE.read_bytes(), SOURCE.name.encode()
    compiler._call("nvrtcCreateProgram", ctypes.byref(program), text, name, 0, None, None)
    words = [*OPTIONS, f"--gpu-architecture=sm_{capability.replace('.', '')}"]
    words.append("--ptxas-options=-v")
    array = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
    compiler._call("nvrtcCompileProgram", program, len(words), array)
    log = compiler._output("nvrtcGetProgramLog", program).decode()
    compiler._call("nvrtcDestroyProgram", ctypes.byref(program))
    found = {}
    for part in log.split("Compiling entry function ")[1:]:
        kernel = re.match(r"'(\w+)'", part)
        memory = re.search(r"(\d+) bytes stack.*?(\d+) bytes spill st.*?(\d+) bytes spill l", part)
        registers = re.search(r"Used (\d+) registers", part)
        assert kernel and memory and registers, log
        stack, stores, loads = map(int, memory.groups())
        found[kernel[1]] = {
            "registers": int(registers[1]),
            "stack": stack,
            "spill_stores": stores,
            "spill_loads": loads,
        }
    return found


def main() -> None:
    compiler = Nvrtc()
    figures = {capability: resources(compiler, capability) for capability in CAPABILITIES}
    json.dump({"compiler": compiler.name, "kernels": figures}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
