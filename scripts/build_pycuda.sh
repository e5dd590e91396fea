#!/usr/bin/env bash
# Build PyCUDA for the tests that run it against tests/cuda_driver, where there is no NVIDIA driver
# and no CUDA toolkit: the headers come from PyPI, and libcuda is an empty library to link with.
# What a device runs is not this: there PyCUDA is built against the CUDA that is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(uname -sm)" = "Linux x86_64" ] || exit 0  # elsewhere the tests that need it are left out
python=$PWD/${VENV:-.venv}/bin/python
pinned() { sed -n "s/^$1==//p" constraints.txt; }
tag=$("$python" -c 'import sys; print(sys.implementation.cache_tag)')
target=$PWD/build/pycuda-$(pinned pycuda)-$tag
[ ! -e "$target/.ready" ] || exit 0

printf 'build_pycuda: PyCUDA %s for the tests, a minute or two, once\n' "$(pinned pycuda)" >&2
mkdir -p build
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
pip=("$python" -m pip --quiet --quiet --disable-pip-version-check)

# cuda.h and cudaProfiler.h, where the tests find them too.
"${pip[@]}" install --no-deps --target "$scratch/cuda" --constraint constraints.txt \
  nvidia-cuda-runtime nvidia-cuda-profiler-api
include=$(dirname "$(find "$scratch/cuda" -name cuda.h)")
gcc -shared -Wl,-soname,libcuda.so.1 -x c /dev/null -o "$scratch/libcuda.so"

# PyCUDA's setup.py reads this file from the home folder. Its templates take minutes to optimise,
# which calls of a driver on the CPU do not repay.
cat >"$scratch/.aksetup-defaults.py" <<PYTHON
CUDA_INC_DIR = ["$include"]
CUDADRV_LIB_DIR = ["$scratch"]
CUDA_ENABLE_CURAND = False
CXXFLAGS = ["-O0", "-g0", "-w"]
PYTHON
export XDG_CONFIG_HOME=${XDG_CONFIG_HOME:-$HOME/.config} XDG_CACHE_HOME=${XDG_CACHE_HOME:-$HOME/.cache}
HOME=$scratch LDFLAGS="-Wl,--no-as-needed" "${pip[@]}" install --no-binary pycuda --no-cache-dir \
  --target "$scratch/pycuda" --constraint constraints.txt "pycuda==$(pinned pycuda)"

mkdir "$scratch/pycuda/include"
cp -r "$include/." "$scratch/pycuda/include"
touch "$scratch/pycuda/.ready"
rm -rf "$target"
mv "$scratch/pycuda" "$target"
