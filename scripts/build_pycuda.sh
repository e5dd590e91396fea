#!/usr/bin/env bash
# Build PyCUDA where pip alone cannot, for want of CUDA's headers or of libcuda to link with.
#
#   scripts/build_pycuda.sh            into build/, for the tests that run it on tests/cuda_driver
#   scripts/build_pycuda.sh --install  into the environment of a PC, for the GPU that it has
#
# The headers come from PyPI unless the PC has a CUDA toolkit, and libcuda is an empty library of
# its name: the driver's is found when PyCUDA runs. On a Jetson pip alone can.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(uname -sm)" = "Linux x86_64" ] || exit 0  # elsewhere the tests that need it are left out
python=$(cd "${VENV:-.venv}/bin" && pwd)/python
pinned() { sed -n "s/^$1==//p" constraints.txt; }
tag=$("$python" -c 'import sys; print(sys.implementation.cache_tag)')
target=$PWD/build/pycuda-$(pinned pycuda)-$tag
include=
if [ "${1:-}" = --install ]; then
  there=$("$python" -c 'import importlib.metadata as m; print(m.version("pycuda"))' 2>/dev/null || true)
  [ "$there" != "$(pinned pycuda)" ] || exit 0
  # A driver may be older than PyPI's headers, but hardly than the toolkit beside it.
  nvcc=$(readlink -f "$(command -v nvcc || true)" || true)
  for home in "${CUDA_HOME:-}" "${nvcc%/bin/nvcc}" /usr/local/cuda; do
    if [ -z "$include" ] && [ -f "$home/include/cuda.h" ]; then include=$home/include; fi
  done
  optimise=-O1
else
  [ ! -e "$target/.ready" ] || exit 0
  optimise=-O0
fi

printf 'build_pycuda: PyCUDA %s, some minutes, once\n' "$(pinned pycuda)" >&2
mkdir -p build
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
pip=("$python" -m pip --quiet --quiet --disable-pip-version-check)

if [ -z "$include" ]; then
  # cuda.h and cudaProfiler.h, where the tests find them too.
  "${pip[@]}" install --no-deps --target "$scratch/cuda" --constraint constraints.txt \
    nvidia-cuda-runtime nvidia-cuda-profiler-api
  include=$(dirname "$(find "$scratch/cuda" -name cuda.h)")
fi
gcc -shared -Wl,-soname,libcuda.so.1 -x c /dev/null -o "$scratch/libcuda.so"

# PyCUDA's setup.py reads this file from the home folder. Its templates take minutes to optimise,
# which calls of a driver on the CPU do not repay.
cat >"$scratch/.aksetup-defaults.py" <<PYTHON
CUDA_INC_DIR = ["$include"]
CUDADRV_LIB_DIR = ["$scratch"]
CUDA_ENABLE_CURAND = False
CXXFLAGS = ["$optimise", "-g0", "-w"]
PYTHON
export XDG_CONFIG_HOME=${XDG_CONFIG_HOME:-$HOME/.config} XDG_CACHE_HOME=${XDG_CACHE_HOME:-$HOME/.cache}
build() {
  HOME=$scratch LDFLAGS="-Wl,--no-as-needed" "${pip[@]}" install --no-binary pycuda --no-cache-dir \
    --constraint constraints.txt "pycuda==$(pinned pycuda)" "$@"
}
if [ "${1:-}" = --install ]; then
  build
  exit
fi
build --target "$scratch/pycuda"

mkdir "$scratch/pycuda/include"
cp -r "$include/." "$scratch/pycuda/include"
touch "$scratch/pycuda/.ready"
rm -rf "$target"
mv "$scratch/pycuda" "$target"
