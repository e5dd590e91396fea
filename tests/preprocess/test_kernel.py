"""The kernel's bytes are the CPU path's: its source, compiled as C++, over host memory."""

import ctypes
import itertools
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from edge.errors import ImageError
from edge.gpu.kernels import Nvrtc
from edge.preprocess.cpu import Preprocessor
from edge.preprocess.cuda import IMAGE, KERNELS, SHARED, SOURCE, TILE_HEIGHT, TILE_WIDTH, geometry
from edge.preprocess.processors import from_processor
from edge.preprocess.spec import Preprocess
from edge.preprocess.surface import FORMATS, Surface
from edge.preprocess.timm_config import from_timm
from scripts.gpu.kernel_resources import CAPABILITIES, resources
from tests.preprocess.kernel.build import HostKernel, compiled
from tests.preprocess.pictures import COLOURS, noise

TEXTURES = ["NV12", "NV21", "GRAY8", "RGBA", "BGRx", "I420"]  # block-linear NVMM has no others
COLOURED = ["NV12", "NV21", "I420", "Y42B", "Y444", "YUY2", "UYVY", "GRAY8"]  # not RGB


def vit(resample: int, height: int = 40, width: int = 56) -> Preprocess:
    size = {"height": height, "width": width}
    config = {"image_processor_type": "ViTImageProcessor", "size": size, "resample": resample}
    return from_processor(config, (height, width))


SPECS = {
    "nearest": vit(0),
    "lanczos": vit(1),
    "bilinear": vit(2),
    "bicubic": vit(3),
    "cropped": from_processor(
        {"image_processor_type": "CLIPImageProcessor", "size": 40, "crop_size": 36}, (36, 36)
    ),
    "padded by the crop": from_processor(
        {"image_processor_type": "BitImageProcessor", "size": 30, "crop_size": 44}, (44, 44)
    ),
    "padded": from_processor(
        {
            "image_processor_type": "ViTImageProcessor",
            "size": {"max_height": 40, "max_width": 40},
            "do_pad": True,
            "pad_size": 48,
        },
        (48, 48),
    ),
    "blue first": from_processor(
        {"image_processor_type": "MobileViTImageProcessor", "size": 40, "crop_size": 37}, (37, 37)
    ),
    "border": from_timm({"input_size": [3, 40, 56], "crop_mode": "border", "crop_pct": 0.9}),
}


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """One folder for all test workers."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if root.name.startswith("popen") else root) / "kernel"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def kernel(built):
    return HostKernel(compiled(built))


def check(kernel, spec, surfaces, number="float32", **how):
    found = kernel(spec, surfaces, number, **how)
    ready = Preprocessor(spec)
    for tensor, surface in zip(found, surfaces, strict=True):
        assert tensor.tobytes() == ready(surface).astype(number).tobytes(), surface.layout


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_and_processor_is_the_cpu_path_to_the_byte(kernel, form, spec):
    """Odd sizes, rows longer than they need be, chroma pitches that are not luma's."""
    sizes = [(101, 77), (64, 48), (40, 40), (33, 150), (17, 9)]
    surfaces = [noise(form, *size, padding=5 + i, seed=i) for i, size in enumerate(sizes)]
    check(kernel, spec, surfaces)
    check(kernel, spec, surfaces[:2], "float16")


@pytest.mark.parametrize("form", COLOURED)
def test_every_matrix_range_and_siting(kernel, form):
    check(kernel, SPECS["bilinear"], [noise(form, 61, 45, colour, padding=3) for colour in COLOURS])


@pytest.mark.parametrize("form", TEXTURES)
def test_textures_give_what_pointers_give(kernel, form):
    for name in ("bilinear", "cropped"):
        check(kernel, SPECS[name], [noise(form, 61, 45, padding=3)], textures=True)


@pytest.mark.parametrize("form", FORMATS)
def test_every_orientation(kernel, form):
    """Upright as Pillow turns the RGB of the stored image; also from textures."""
    stored = noise(form, 61, 45, padding=3)
    turned = [Surface(replace(stored.layout, orientation=o), stored.planes) for o in range(1, 9)]
    for name in ("bilinear", "cropped", "padded"):
        check(kernel, SPECS[name], turned)
        if form in TEXTURES:
            check(kernel, SPECS[name], turned, textures=True)


def test_a_batch_may_mix_sizes_formats_and_colours(kernel):
    mixed = [
        noise(form, 40 + 13 * i, 90 - 5 * i, COLOURS[i], padding=i)
        for i, form in enumerate(FORMATS)
    ]
    for name in ("bicubic", "cropped", "padded by the crop"):
        check(kernel, SPECS[name], mixed)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 30), (30, 1), (2, 2), (3, 2000), (6000, 3), (1920, 1080)]
)
def test_extreme_shapes(kernel, size):
    for resample in (1, 2):
        check(kernel, vit(resample, 8, 24), [noise("NV12", *size), noise("RGB", *size)])


def test_any_block_gives_the_same(kernel):
    surfaces = [noise("NV12", 120, 90), noise("BGRx", 50, 70)]
    for block in ((4, 1, 1), (1, 3, 1), (5, 2, 1)):
        check(kernel, SPECS["cropped"], surfaces, block=block)


def test_tiles_fit_the_shared_memory_of_every_gpu():
    for resample, width in itertools.product((1, 2, 3), (1, 224, 1920, 3840, 20000, 60000)):
        made = geometry(vit(resample, 224, 224), width, 100)
        assert made.shared <= SHARED
        assert made.staged >= 1
    with pytest.raises(ImageError, match="300000 pixels wide"):
        geometry(vit(2, 224, 224), 300000, 100)


def test_the_kernel_s_tiles_are_cuda_py_s():
    text = SOURCE.read_text()
    assert f"#define TILE_HEIGHT {TILE_HEIGHT}" in text
    assert f"#define TILE_WIDTH {TILE_WIDTH}" in text


def test_cuda_py_and_the_kernel_agree_on_the_layout_of_a_picture(kernel):
    class Member(ctypes.Structure):
        _fields_ = [
            ("name", ctypes.c_char_p),
            ("offset", ctypes.c_size_t),
            ("size", ctypes.c_size_t),
        ]

    kernel.library.image_layout.restype = ctypes.POINTER(Member)
    members, theirs, index = kernel.library.image_layout(), {}, 0
    while members[index].name:
        theirs[members[index].name.decode()] = (members[index].offset, members[index].size)
        index += 1
    assert IMAGE.itemsize == members[index].offset
    assert theirs == {
        name: (offset, dtype.itemsize) for name, (dtype, offset) in IMAGE.fields.items()
    }


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_it_compiles_for_every_gpu_and_all_fits_the_registers(capability):
    found = resources(Nvrtc(), capability)
    assert set(found) == set(KERNELS.values())
    for kernel in found.values():
        assert kernel["registers"] <= 65536 // 1024  # four blocks of 256 threads on one processor
        assert (kernel["stack"], kernel["spill_stores"], kernel["spill_loads"]) == (0, 0, 0)


SANITIZED = """
import sys
import numpy as np
from pathlib import Path
from tests.preprocess import test_kernel as t
from tests.preprocess.kernel.build import HostKernel
kernel = HostKernel(Path(sys.argv[1]))
block = tuple(map(int, sys.argv[2].split(",")))
sizes = [(37, 29), (1, 1), (2, 41)] if block == (1, 1, 1) else [(37, 29)]
for spec in t.SPECS.values():
    for form in t.FORMATS:
        t.check(kernel, spec, [t.noise(form, *size, padding=3) for size in sizes], block=block)
    if block != (1, 1, 1):
        t.check(kernel, spec, [t.noise("NV12", 90, 70)], block=block)
for form in t.COLOURED if block == (1, 1, 1) else []:
    coloured = [t.noise(form, 37, 29, colour, padding=3) for colour in t.COLOURS]
    t.check(kernel, t.SPECS["bilinear"], coloured)
for form in t.TEXTURES if block == (1, 1, 1) else []:
    for spec in t.SPECS.values():
        t.check(kernel, spec, [t.noise(form, *size, padding=3) for size in sizes], textures=True)
print("all the same")
"""


def sanitized(library, which, block):
    """Run the comparison in a process with the sanitizer loaded first."""
    runtime = subprocess.run(
        ["g++", f"-print-file-name=lib{which}.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    options = "detect_leaks=0:halt_on_error=1:exitcode=66"
    environment = {"LD_PRELOAD": runtime, "PYTHONPATH": str(SOURCE.parents[2]), "PATH": "/usr/bin"}
    environment |= {"ASAN_OPTIONS": options, "TSAN_OPTIONS": options, "NUMBA_DISABLE_JIT": "0"}
    return subprocess.run(
        [sys.executable, "-c", SANITIZED, str(library), block],
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_no_access_outside_memory_and_no_undefined_behaviour(built):
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    done = sanitized(compiled(built, *flags), "asan", "1,1,1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all the same\n"


@pytest.mark.slow
def test_no_race_between_the_threads_of_a_block(built):
    done = sanitized(compiled(built, "-fsanitize=thread"), "tsan", "3,2,1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "all the same\n"


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_the_sanitizers_would_see_it(built, sanitizer):
    """A kernel that reads one pixel too many, and one without a barrier, are caught."""
    text = SOURCE.read_text()
    if sanitizer == "address":
        broken = text.replace("x < span; x +=", "x < span + 64; x +=")
    else:
        broken = re.sub(r"__syncthreads\(\);", "", text, count=1)
    assert broken != text
    source = built / f"broken-{sanitizer}.cu"
    source.write_text(broken)
    library = compiled(built, f"-fsanitize={sanitizer}", source=source)
    block = "1,1,1" if sanitizer == "address" else "3,2,1"
    done = sanitized(library, "asan" if sanitizer == "address" else "tsan", block)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr or "data race" in done.stderr
