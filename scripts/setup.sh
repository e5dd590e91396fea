#!/usr/bin/env bash
# Install the distribution's packages that are missing, and make the virtual environment.
# On a Jetson the environment gets only what a board needs: no torch, no transformers.
#
#   scripts/setup.sh           what vit-edge needs: make setup
#   scripts/setup.sh --tests   the programs that only its tests need: make test
#
# Each step is one line on stderr. On a terminal a second line shows that the step is alive.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${SYSTEM_PYTHON:-/usr/bin/python3}
venv=${VENV:-.venv}
root=${SETUP_ROOT:-}  # a folder in place of / for the tests of this script
board=no
[ ! -f "$root/etc/nv_tegra_release" ] || board=yes
step=0
steps=1

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
next() { step=$((step + 1)); say "[$step/$steps] $*"; }

scratch=$(mktemp -d)
log=$scratch/log
watcher=
stop_watching() {
  [ -n "$watcher" ] || return 0
  kill "$watcher" 2>/dev/null || true
  wait "$watcher" 2>/dev/null || true
  watcher=
  printf '\r\033[K' >&2
}
restore_policy() { :; }
finish() {
  # A watcher that is killed before it has begun would run this, too.
  [ "$BASHPID" = $$ ] || return 0
  stop_watching
  restore_policy
  rm -rf "$scratch"
}
trap finish EXIT

# Rewrite one line of the terminal each second: seconds, and what pip or apt does.
watch_log() {
  local start=$SECONDS width line
  local progress='^ *(Collecting|Downloading|Building|Installing|Get:|Unpacking|Setting up)'
  while sleep 1; do
    width=$(tput cols 2>/dev/null || echo 80)
    line=$(grep -E "$progress" "$log" | tail -n 1 | tr '\r\t' '  ' || true)
    printf '\r\033[K%.*s' "$((width - 1))" "       $((SECONDS - start)) s: $line" >&2
  done
}

# Run a command with its output in the log. Only a failure shows that output, and returns 1.
run() {
  : >"$log"
  if [ -t 2 ] && [ -z "${CI:-}" ]; then
    watch_log &
    watcher=$!
  fi
  local status=0
  "$@" >"$log" 2>&1 || status=$?
  stop_watching
  [ $status -eq 0 ] || tail -n 30 "$log" >&2
  return $status
}

as_root=()
find_missing() {  # packages -> missing, those that are not installed; as_root, how to install them
  local package state
  missing=()
  for package in "$@"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "install these packages by hand: ${missing[*]}"
  if [ "$(id -u)" -ne 0 ] && [ ${#as_root[@]} -eq 0 ]; then
    command -v sudo >/dev/null || fail "run as root: apt-get install ${missing[*]}"
    as_root=(sudo)
    say "sudo may ask for your password"
    sudo -v
  fi
}

apt_install() {  # name of the step, then packages
  local name=$1 size apt=(env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get)
  find_missing "${@:2}"
  if [ ${#missing[@]} -eq 0 ]; then
    next "$name: all there"
    return
  fi
  next "$name: ${missing[*]}"
  run "${as_root[@]}" "${apt[@]}" update -q || fail "apt-get update failed; see its messages above"
  # "Need to get 12.3 MB of archives", for all packages and what they depend on.
  size=$("${apt[@]}" install --assume-no --no-install-recommends "${missing[@]}" 2>/dev/null |
    sed -n 's/^Need to get \(.*\) of archives.*/\1/p' || true)
  [ -z "$size" ] || say "       downloading ${size##*/}"
  run "${as_root[@]}" "${apt[@]}" install -y -q --no-install-recommends "${missing[@]}" ||
    fail "apt-get cannot install ${missing[*]}; see its messages above"
}

if [ "${1:-}" = --tests ]; then
  # A real broker, keys for it, a clock to turn, and a tracer of system calls. A board runs only the
  # tests for a GPU.
  [ $board = no ] || exit 0
  packages=(mosquitto openssl faketime strace)
  # A browser, where it is a package: Ubuntu's is a snap, which a container cannot run.
  ! grep -qx 'ID=debian' "$root/etc/os-release" || packages+=(chromium)
  find_missing mosquitto
  new_broker=${#missing[@]}
  policy=$root/usr/sbin/policy-rc.d
  restore_policy() {
    [ -e "$scratch/ours" ] || return 0
    "${as_root[@]}" rm -f "$policy"
    [ ! -e "$policy.vit-edge" ] || "${as_root[@]}" mv "$policy.vit-edge" "$policy"
    rm "$scratch/ours"
  }
  if [ "$new_broker" -gt 0 ]; then
    # The tests start a broker of their own. 101 forbids the package to start its service; this
    # works without systemd, too.
    printf '#!/bin/sh\nexit 101\n' >"$scratch/policy"
    [ ! -e "$policy" ] || "${as_root[@]}" mv "$policy" "$policy.vit-edge"
    touch "$scratch/ours"
    "${as_root[@]}" install -m 755 "$scratch/policy" "$policy"
  fi
  apt_install "programs for the tests" "${packages[@]}"
  if [ "$new_broker" -gt 0 ]; then
    # Nor is it started at the next boot. A broker that was here before stays as it was.
    run "${as_root[@]}" env DPKG_MAINTSCRIPT_PACKAGE=mosquitto \
      deb-systemd-helper disable mosquitto.service || true
    run "${as_root[@]}" update-rc.d mosquitto disable || true
    restore_policy
    say "mosquitto's service is disabled; to use it: sudo systemctl enable --now mosquitto"
  fi
  exit
fi
[ $# -eq 0 ] || { sed -n 's/^#   //p' "$0" >&2; exit 2; }

has_driver() { "$python" -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null; }
driver=no
if [ $board = yes ]; then
  steps=3
else
  steps=5
  if [ -x "$python" ] && has_driver; then
    driver=yes
    steps=6
  fi
fi

apt_install "the distribution's packages" \
  g++ python3-venv python3-dev python3-gi python3-gst-1.0 \
  gir1.2-gst-plugins-base-1.0 gir1.2-gst-plugins-bad-1.0 gir1.2-gst-rtsp-server-1.0 \
  gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
  gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav gstreamer1.0-rtsp

[ -x "$python" ] ||
  fail "there is no $python; name the distribution's: make setup SYSTEM_PYTHON=..."
if "$venv/bin/python" -c '' 2>/dev/null; then
  next "$venv: there already"
else
  next "$venv: new, from $python ($("$python" --version))"
  rm -rf "$venv"
  "$python" -m venv --system-site-packages "$venv"
fi

pip_install() {  # pip's progress is in the log: "Downloading torch-2.13.0 (190 MB)"
  run "$venv/bin/python" -m pip install --progress-bar off --disable-pip-version-check \
    --constraint constraints.txt "$@" || fail "pip failed; see its messages above, then: make setup"
}
if [ $board = yes ]; then
  # TensorRT and OpenCV stay JetPack's; PyCUDA is built against the CUDA that is here.
  export PATH="$PATH:/usr/local/cuda/bin"
  next "what the board needs: about 150 MB; pip compiles PyCUDA, some minutes"
  pip_install --editable '.[device,fast,cuda,service]' pytest  # pytest: for make test-gpu
else
  torch=$(grep '^torch==' constraints.txt)
  next "$torch: 200 MB as the CPU build; 3 GB where pip finds only the CUDA build"
  # By its exact version first: the CPU build is enough, where pip is set up to find it.
  pip_install "$torch"
  extras=build,fast,demo,service,dev
  # TensorRT-RTX compiles plans without a GPU.
  [ "$(uname -m)" = x86_64 ] && extras=$extras,rtx
  next "vit-edge with its extras $extras: about 2 GB on disk"
  pip_install --editable ".[$extras]"
  # Apart, so that transformers finds no torchvision: see edge/builder/models/timm_library.py.
  next "timm and torchvision, for timm checkpoints: about 10 MB"
  pip_install --no-deps --upgrade --target "$venv/timm" timm torchvision
  # With a GPU's driver, the rest of the extra `cuda`, too: dev has cuda-bindings.
  if [ $driver = yes ]; then
    next "PyCUDA, for the GPU of this PC: compiled once, some minutes"
    VENV=$venv run scripts/build_pycuda.sh --install ||
      say "PyCUDA cannot be built, so the GPU is not used; fix the errors, then: make -B setup"
  fi
fi
say "done in $SECONDS s; make help lists the targets"
