#!/usr/bin/env bash
# Run vit-edge as a systemd service: sudo scripts/install_service.sh [--user NAME] | --uninstall
# It can be run again: your files in /etc/vit-edge are kept. See docs/service.md.
# With DESTDIR=folder it only writes the files below that folder, as a package needs them.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

unit=vit-edge.service
etc=${DESTDIR:-}/etc/vit-edge
units=${DESTDIR:-}/etc/systemd/system
user=vit-edge

say() { printf 'install_service: %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
usage() { printf 'usage: sudo scripts/install_service.sh [--user NAME] | --uninstall\n' >&2; exit 2; }

uninstall=no
while [ $# -gt 0 ]; do
  case $1 in
    --uninstall) uninstall=yes ;;
    --user) [ $# -gt 1 ] || usage; user=$2; shift ;;
    *) usage ;;
  esac
  shift
done

if [ -z "${DESTDIR:-}" ]; then
  [ "$(id -u)" -eq 0 ] || fail "this needs root; run: sudo scripts/install_service.sh"
  [ -d /run/systemd/system ] || fail "this machine does not run systemd; start edge run by hand"
fi

if [ $uninstall = yes ]; then
  if [ -z "${DESTDIR:-}" ] && [ -e "$units/$unit" ]; then
    systemctl disable --now "$unit"
  fi
  rm -f "$units/$unit" "$units/$unit.d/jetson.conf"
  rmdir "$units/$unit.d" 2>/dev/null || true
  [ -n "${DESTDIR:-}" ] || systemctl daemon-reload
  say "the service is removed; kept: /etc/vit-edge, /var/lib/vit-edge and the user"
  exit
fi

edge=$root/.venv/bin/edge
[ -x "$edge" ] || fail "there is no $edge; run: make setup"
case $root in *[[:space:]%\\\"\'\&\#]*) fail "$root has characters that a unit cannot contain; move it to another folder" ;; esac

# Write stdin to the file $1 with the mode $2, unless the file is the same already.
place() {
  local made
  made=$(mktemp)
  cat >"$made"
  if cmp -s "$made" "$1"; then
    say "$1 is up to date"
  else
    install -D -m "$2" "$made" "$1"
    say "wrote $1"
  fi
  rm -f "$made"
}

if [ -z "${DESTDIR:-}" ]; then
  for group in video render; do
    getent group "$group" >/dev/null || { groupadd --system "$group"; say "created the group $group"; }
  done
  if ! getent passwd "$user" >/dev/null; then
    [ "$user" = vit-edge ] || fail "there is no user $user; give an existing one"
    useradd --system --user-group --no-create-home --home-dir /var/lib/vit-edge \
      --shell /usr/sbin/nologin vit-edge
    say "created the user vit-edge"
  fi
  # On Ubuntu other users cannot read a home folder.
  runuser -u "$user" -- "$edge" --version >/dev/null 2>&1 ||
    fail "the user $user cannot run $edge; move vit-edge to /opt, or give --user ${SUDO_USER:-NAME}"
fi

fresh=no
install -d -m 755 "$etc"
if [ ! -e "$etc/cameras.toml" ]; then
  fresh=yes
  sed "s#/opt/vit-edge/engines#$root/engines#" "$root/scripts/service/cameras.toml" | place "$etc/cameras.toml" 640
fi
if [ ! -e "$etc/credentials" ]; then
  place "$etc/credentials" 600 <<'NETRC'
# Users and passwords of cameras by host, in the netrc format; only root can read this file.
# machine 10.0.0.5 login admin password secret
NETRC
fi
if [ ! -e "$etc/environment" ]; then
  place "$etc/environment" 600 <<'ENVIRONMENT'
# NAME=value replaces ${NAME} in a source of cameras.toml; only root can read this file.
ENVIRONMENT
fi

# A source may contain a password: only root and the service can read the file.
[ -n "${DESTDIR:-}" ] || chgrp "$(id -gn "$user")" "$etc/cameras.toml"

sed -e "s#@ROOT@#$root#g" -e "s#@USER@#$user#g" "$root/scripts/service/vit-edge.service" |
  place "$units/$unit" 644
if [ -f "${DESTDIR:-}/etc/nv_tegra_release" ]; then
  place "$units/$unit.d/jetson.conf" 644 <"$root/scripts/service/vit-edge-jetson.conf"
fi
[ -z "${DESTDIR:-}" ] || exit 0

systemctl daemon-reload
systemctl enable "$unit"
if [ $fresh = yes ]; then
  say "next, name your engine and cameras: sudoedit /etc/vit-edge/cameras.toml"
  say "then: sudo systemctl start vit-edge && journalctl -fu vit-edge"
  exit
fi
say "starting it"
systemctl restart "$unit" || fail "it did not start; see: journalctl -u vit-edge -n 50"
systemctl --no-pager --lines 5 status "$unit" >&2
