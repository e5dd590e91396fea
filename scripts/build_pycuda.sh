#!/usr/bin/env bash
# Build PyCUDA where pip alone cannot: without CUDA's headers, or without a libcuda to link with.
#
#   scripts/build_pycuda.sh            into build/, for the tests on the emulated driver
#   scripts/build_pycuda.sh --install  into the environment of a PC, for its GPU
#
# PyCUDA is compiled once per machine. The wheel is kept in
# ${XDG_CACHE_HOME:-~/.cache}/vit-edge/wheels or, if that folder is not writable, in build/wheels.
# The headers come from PyPI unless the PC has a CUDA toolkit. PyCUDA is linked with an empty library
# called libcuda, and finds the driver's library when it runs. A Jetson does not need this script:
# pip builds PyCUDA there.
set -euo pipefail
cd "$(dirname "$0")/.."

# Tests that need PyCUDA are skipped on other systems.
[ "$(uname -sm)" = "Linux x86_64" ] || exit 0
python=$(cd "${VENV:-.venv}/bin" && pwd)/python
pinned() { sed -n "s/^$1==//p" constraints.txt; }
say() { printf 'build_pycuda: %s\n' "$*" >&2; }
version=$(pinned pycuda)
tag=$("$python" -c 'import sys; print(sys.implementation.cache_tag)')
target=$PWD/build/pycuda-$version-$tag
include=
headers=$(pinned nvidia-cuda-runtime)
if [ "${1:-}" = --install ]; then
  query='import importlib.metadata as m; print(m.version("pycuda"))'
  installed=$("$python" -c "$query" 2>/dev/null || true)
  [ "$installed" != "$version" ] || exit 0
  # The driver may be older than PyPI's headers. It is rarely older than the installed toolkit.
  nvcc=$(readlink -f "$(command -v nvcc || true)" || true)
  for home in "${CUDA_HOME:-}" "${nvcc%/bin/nvcc}" /usr/local/cuda; do
    if [ -z "$include" ] && [ -f "$home/include/cuda.h" ]; then
      include=$home/include
      headers=$(awk '$2 == "CUDA_VERSION" { print $3; exit }' "$include/cuda.h")
    fi
  done
  optimise=-O1
else
  [ ! -e "$target/.ready" ] || exit 0
  # Optimising PyCUDA's templates takes minutes. The calls to a driver on the CPU do not need it.
  optimise=-O0
fi
flags=("$optimise" -g0 -w)

mkdir -p build
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
pip=("$python" -m pip --quiet --quiet --disable-pip-version-check)

# The folder's name has everything that the compiled wheel depends on.
key=pycuda-$version-$tag-$(uname -m)-cuda-$headers$(printf '%s' "${flags[@]}")
cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
cache=${cache:+$cache/vit-edge/wheels}
if [ -z "$cache" ] || ! mkdir -p "$cache/$key" 2>/dev/null || [ ! -w "$cache/$key" ]; then
  cache=$PWD/build/wheels
  mkdir -p "$cache/$key"
fi
kept() { find "$cache/$key" -maxdepth 1 -name 'pycuda-*.whl' | head -n 1; }

download_headers() {
  [ -z "$include" ] || return 0
  # cuda.h and cudaProfiler.h; the tests compile the emulated driver with them.
  "${pip[@]}" install --no-deps --target "$scratch/cuda" --constraint constraints.txt \
    nvidia-cuda-runtime nvidia-cuda-profiler-api
  include=$(dirname "$(find "$scratch/cuda" -name cuda.h)")
}

wheel=$(kept)
if [ -n "$wheel" ] && ! "$python" -m zipfile -t "$wheel" >/dev/null 2>&1; then
  say "$wheel is damaged; building it again"
  rm -f "$wheel"
  wheel=
fi
if [ -z "$wheel" ]; then
  say "compiling PyCUDA $version, about 3 minutes, once per machine"
  download_headers
  gcc -shared -Wl,-soname,libcuda.so.1 -x c /dev/null -o "$scratch/libcuda.so"
  # PyCUDA's setup.py reads this file from the home folder.
  quoted=$(printf '"%s", ' "${flags[@]}")
  cat >"$scratch/.aksetup-defaults.py" <<PYTHON
CUDA_INC_DIR = ["$include"]
CUDADRV_LIB_DIR = ["$scratch"]
CUDA_ENABLE_CURAND = False
CXXFLAGS = [$quoted]
PYTHON
  # pip's own configuration and cache are found through these, not through the home folder above.
  if [ -n "${HOME:-}" ]; then
    export XDG_CONFIG_HOME=${XDG_CONFIG_HOME:-$HOME/.config}
    export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$HOME/.cache}
  fi
  HOME=$scratch LDFLAGS="-Wl,--no-as-needed" "${pip[@]}" wheel --no-deps --no-binary pycuda \
    --no-cache-dir --constraint constraints.txt --wheel-dir "$scratch/wheel" "pycuda==$version"
  built=$(find "$scratch/wheel" -name 'pycuda-*.whl')
  wheel=$cache/$key/$(basename "$built")
  # Renamed when complete: another clone may be looking for it.
  cp "$built" "$wheel.$$"
  mv "$wheel.$$" "$wheel"
else
  say "PyCUDA $version is in ${wheel%/*}"
fi

if [ "${1:-}" = --install ]; then
  "${pip[@]}" install --constraint constraints.txt "$wheel"
  exit
fi
"${pip[@]}" install --constraint constraints.txt --target "$scratch/pycuda" "$wheel"
download_headers
mkdir "$scratch/pycuda/include"
cp -r "$include/." "$scratch/pycuda/include"
touch "$scratch/pycuda/.ready"
rm -rf "$target"
mv "$scratch/pycuda" "$target"
