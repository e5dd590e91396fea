#!/usr/bin/env bash
# Install the distribution's packages that are missing, and make the virtual environment.
# On a Jetson the environment gets what a board needs: no torch, no transformers.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${SYSTEM_PYTHON:-/usr/bin/python3}
venv=${VENV:-.venv}
packages=(
  g++ python3-venv python3-dev python3-gi python3-gst-1.0
  gir1.2-gst-plugins-base-1.0 gir1.2-gst-plugins-bad-1.0 gir1.2-gst-rtsp-server-1.0
  gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good
  gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav gstreamer1.0-rtsp
)

# For the tests: a real broker, keys for it, and a clock to turn.
[ -f /etc/nv_tegra_release ] || packages+=(mosquitto openssl faketime)
# A browser, too, where it is a package: Ubuntu's is a snap, which a container cannot run.
[ -f /etc/nv_tegra_release ] || ! grep -qx 'ID=debian' /etc/os-release || packages+=(chromium)

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "install these packages by hand: ${missing[*]}"
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "run as root: apt-get install ${missing[*]}"
    as_root=(sudo)
    say "sudo may ask for your password"
  fi
  say "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
fi

[ -x "$python" ] || fail "there is no $python; name the distribution's: make setup SYSTEM_PYTHON=..."
if ! "$venv/bin/python" -c '' 2>/dev/null; then
  say "making $venv from $python ($("$python" --version))"
  rm -rf "$venv"
  "$python" -m venv --system-site-packages "$venv"
fi
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt)
if [ -f /etc/nv_tegra_release ]; then
  # TensorRT and OpenCV stay JetPack's; PyCUDA is built against the CUDA that is here.
  export PATH="$PATH:/usr/local/cuda/bin"
  say "installing what the board needs"
  "${pip[@]}" --editable '.[device,fast,cuda,service]' pytest  # pytest: for make test-gpu
else
  say "installing the build tools (about 2 GB on disk)"
  # By its exact version first: the CPU build is enough, where pip is set up to find it.
  "${pip[@]}" "$(grep '^torch==' constraints.txt)"
  extras=build,fast,demo,service,dev
  [ "$(uname -m)" = x86_64 ] && extras=$extras,rtx
  "${pip[@]}" --editable ".[$extras]"
  # Apart, so that transformers finds no torchvision: see edge/builder/models/timm_library.py.
  "${pip[@]}" --no-deps --upgrade --target "$venv/timm" timm torchvision
  # With a GPU's driver, the rest of the extra `cuda` too: dev has cuda-bindings.
  if "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null; then
    VENV=$venv scripts/build_pycuda.sh --install ||
      say "PyCUDA cannot be built, so that the GPU is not used; when its errors above are mended: make -B setup"
  fi
fi
say "done; make help shows what can be made"
