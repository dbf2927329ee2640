#!/bin/sh
# Install the system packages that a purpose needs and this machine lacks. Debian and Ubuntu.
#
#   tools/sysdeps.sh build | demo | test | fuzz | boot
#
# Installs only what is missing, and only as root (or with passwordless sudo). Otherwise it says what is missing and
# what that means, and fails only if nothing can be built without it.
set -eu

purpose=${1:?purpose}
python=${PYTHON:-python3}
need=""     # nothing can be built without these
want=""     # something is weaker without these

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/sbin/$1" ] || [ -x "/usr/sbin/$1" ]; }
library() { have pkg-config && pkg-config --exists "$1"; }

have cc || need="$need gcc"
[ -e /usr/include/stdio.h ] || need="$need libc6-dev"
"$python" -c 'import ensurepip, venv' 2>/dev/null || need="$need python3-venv"
"$python" -c 'import sysconfig, os, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
  2>/dev/null || need="$need python3-dev"

have cmake || want="$want cmake"
have ninja || want="$want ninja-build"
have pkg-config || want="$want pkg-config"
library libdeflate || want="$want libdeflate-dev"
library libisal || want="$want libisal-dev"
library libzstd || want="$want libzstd-dev"
library zlib || want="$want zlib1g-dev"

case $purpose in
demo | test)
  have qemu-img || want="$want qemu-utils"
  have mke2fs || want="$want e2fsprogs"
  have mkfs.vfat || want="$want dosfstools"
  have mcopy || want="$want mtools"
  have sfdisk || want="$want fdisk"
  ;;
esac
case $purpose in
test)
  have strace || want="$want strace"
  have hivexregedit || want="$want libwin-hivex-perl"
  have hivexsh || want="$want libhivex-bin"
  have ntfscat || want="$want ntfs-3g"
  have wimlib-imagex || want="$want wimtools"
  have sgdisk || want="$want gdisk"
  have vgcfgrestore || want="$want lvm2"
  have mkfs.xfs || want="$want xfsprogs"
  have mkfs.btrfs || want="$want btrfs-progs"
  have cryptsetup || want="$want cryptsetup-bin"
  have xorriso || want="$want xorriso"
  # What the readers of guests are compared with.
  [ -e /usr/share/doc/liblzo2-2 ] || want="$want liblzo2-2"
  have cpio || want="$want cpio"
  have xz || want="$want xz-utils"
  have bzip2 || want="$want bzip2"
  have zstd || want="$want zstd"
  have lz4 || want="$want lz4"
  have lzop || want="$want lzop"
  have rpmbuild || want="$want rpm"
  have db5.3_load || want="$want db5.3-util"
  ;;
fuzz) have clang || want="$want clang" ;;
boot)
  have qemu-system-x86_64 || want="$want qemu-system-x86"
  have qemu-img || want="$want qemu-utils"
  have mke2fs || want="$want e2fsprogs"
  have debootstrap || want="$want debootstrap"
  { have extlinux && [ -e /usr/lib/EXTLINUX/mbr.bin ]; } || want="$want extlinux"
  ;;
esac

missing="$need$want"
[ -n "$missing" ] || exit 0

# The Python headers and venv of a Python that is not the distribution's cannot come from packages.
if have apt-get; then
  root=""
  if [ "$(id -u)" != 0 ]; then
    root="no"
    if have sudo && sudo -n true 2>/dev/null; then root="sudo -n"; fi
  fi
  if [ "$root" != no ]; then
    echo "diskfmt: installing system packages:$missing"
    log=$(mktemp)
    if { [ -n "$(find /var/lib/apt/lists -name '*_Packages*' -print -quit 2>/dev/null)" ] || $root apt-get update -q; } >"$log" 2>&1 &&
      DEBIAN_FRONTEND=noninteractive $root apt-get install -q -y --no-install-recommends $missing </dev/null >>"$log" 2>&1; then
      rm -f "$log"
      exit 0
    fi
    # Old lists name versions that are gone: once more with new ones, and one package at a time.
    $root apt-get update -q >>"$log" 2>&1 || true
    failed=""
    for package in $missing; do
      DEBIAN_FRONTEND=noninteractive $root apt-get install -q -y --no-install-recommends "$package" </dev/null >>"$log" 2>&1 ||
        failed="$failed $package"
    done
    [ -n "$failed" ] || { rm -f "$log"; exit 0; }
    tail -n 5 "$log" >&2
    rm -f "$log"
    echo "diskfmt: apt-get could not install:$failed" >&2
    missing=$failed
  else
    echo "diskfmt: not root, so these packages stay missing:$missing" >&2
    echo "diskfmt:   to install them: sudo apt-get install --no-install-recommends$missing" >&2
  fi
else
  echo "diskfmt: no apt-get here; please install what these Debian packages contain:$missing" >&2
fi

for package in $need; do
  case " $missing " in
  *" $package "*)
    echo "diskfmt: without $package nothing can be built" >&2
    exit 1
    ;;
  esac
done
case $missing in
*-dev*) echo "diskfmt: missing codec libraries are built from pinned sources instead" >&2 ;;
esac
case $missing in
*qemu-system-x86* | *debootstrap* | *extlinux*) echo "diskfmt: without them no disk is booted" >&2 ;;
esac
case $missing in
*qemu-utils* | *e2fsprogs* | *dosfstools* | *fdisk* | *strace* | *mtools* | \
  *gdisk* | *lvm2* | *ntfs-3g* | *xfsprogs* | *btrfs-progs* | *cryptsetup* | *xorriso*)
  echo "diskfmt: comparisons with the missing tools are skipped" >&2
  ;;
esac
