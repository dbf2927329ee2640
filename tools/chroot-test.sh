#!/bin/sh
# `make demo` and `make test` on a fresh Debian with nothing but python3 and make. Needs root and debootstrap.
#
#   tools/chroot-test.sh [TARGET...]        default: demo test
#
# SUITE (bookworm), MIRROR, KEEP=1 (leave the machine there), CHROOT (use this one; made if it does not exist).
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo 'chroot-test needs root' >&2; exit 1; }
command -v debootstrap >/dev/null || { echo 'chroot-test needs debootstrap' >&2; exit 1; }
[ $# -gt 0 ] || set -- demo test
suite=${SUITE:-bookworm}
mirror=${MIRROR:-http://deb.debian.org/debian}
chroot=${CHROOT:-$(mktemp -d /var/tmp/diskfmt-chroot.XXXXXX)}

finish() {
  umount "$chroot/proc" "$chroot/dev/shm" "$chroot/dev/pts" 2>/dev/null || true
  # Never remove through a mount that is still there.
  if [ "${KEEP:-}" != 1 ] && [ -z "${CHROOT:-}" ] && ! grep -q " $chroot/" /proc/mounts; then rm -rf "$chroot"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ ! -e "$chroot/etc/debian_version" ]; then
  echo "== debootstrap: $suite, minbase"
  debootstrap --variant=minbase --include=python3,make,ca-certificates "$suite" "$chroot" "$mirror" >"$chroot.log" ||
    { tail -n 20 "$chroot.log" >&2; exit 1; }
  rm -f "$chroot.log"
  # A machine is reached by its network as this one is, and no further.
  for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$file" ]; then cp -L "$file" "$chroot$file"; fi
  done
  for file in /etc/apt/apt.conf.d/*proxy*; do
    if [ -e "$file" ]; then cp "$file" "$chroot$file"; fi
  done
fi
grep -q " $chroot/proc " /proc/mounts || mount -t proc proc "$chroot/proc" || echo 'no /proc in there' >&2
mkdir -p "$chroot/dev/shm" "$chroot/dev/pts"
grep -q " $chroot/dev/shm " /proc/mounts || mount -t tmpfs tmpfs "$chroot/dev/shm" || echo 'no /dev/shm in there' >&2
grep -q " $chroot/dev/pts " /proc/mounts ||
  mount -t devpts -o newinstance,ptmxmode=0666 devpts "$chroot/dev/pts" || echo 'no terminals in there' >&2
rm -f "$chroot/dev/ptmx"
ln -s pts/ptmx "$chroot/dev/ptmx"

# What a clone has; committed files only.
rm -rf "$chroot/root/diskfmt"
mkdir -p "$chroot/root/diskfmt"
git archive HEAD | tar -x -C "$chroot/root/diskfmt"

for target in "$@"; do
  echo "== make $target"
  start=$(date +%s)
  env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
    ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
    ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} ${PIP_CERT:+PIP_CERT="$PIP_CERT"} \
    chroot "$chroot" make -C /root/diskfmt --no-print-directory "$target" </dev/null
  echo "== make $target: $(($(date +%s) - start)) s"
done
