#!/usr/bin/env bash
# Check vit-edge on a GPU with one command, and write one JSON file: see docs/gpu.md.
#
#   scripts/gpu_check.sh --wheels FOLDER [--onnxruntime-gpu]   downloads, on a PC with a network
#   scripts/gpu_check.sh FOLDER [OUT_FOLDER] [STEP...]         checks, on the machine with the GPU
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
usage() { sed -n 's/^#   //p' "$0" >&2; exit 2; }
[ $# -ge 1 ] || usage

if [ "$1" = --wheels ]; then
  [ $# -ge 2 ] || usage
  shift
  PYTHONPATH=$root exec "${PYTHON:-$root/.venv/bin/python}" "$root/scripts/gpu/check.py" wheels "$@"
fi
# Any Python 3.10 or later can start the check; that finds the Python that the wheels are for.
for python in "${PYTHON:-}" python3 python3.12 python3.13 python3.11 python3.10; do
  if [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    exec "$python" "$root/scripts/gpu/check.py" check "$@"
  fi
done
echo "error: there is no Python 3.10 or later; name one: PYTHON=... $0 $*" >&2
exit 1
