"""Everything that is recognised by a magic number (TM-401): one table, and the names behind it.

A *container* holds a guest's disk in a format of its own. A *wrapper* has to be unpacked before there is a disk.
*Content* is what stands on a disk: its presence makes a file without any other claim a credible raw disk. *Other*
is what people give by mistake: programs, scripts, web pages.

What needs more than comparing bytes at one place is in `diskfmt.formats.probes`.
Sources, unless a row says otherwise: the specification of the format itself; for file systems and volumes the
superblock definitions of Linux (include/uapi/linux/magic.h, fs/*) and the probe tables that util-linux documents.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a claim makes of the file."""

    CONTAINER = "container"
    WRAPPER = "wrapper"
    CONTENT = "content"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One detector's word about a file: this thing stands at this byte offset. `detail` is text for people."""

    name: str
    kind: Kind
    offset: int
    detail: str

    def __str__(self) -> str:
        return f"{self.detail} at {self.offset:#x}"


@dataclass(frozen=True, slots=True)
class Magic:
    """`magic` at `offset` (bytes; below zero: from the end) means `name`."""

    name: str
    offset: int
    magic: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """What a name means. `remedy` is for those that are refused."""

    kind: Kind
    title: str
    remedy: str | None = None


SUPPORTED: Final = frozenset({"raw", "qcow2", "vhd", "vmdk"})
"""Names of the formats that are read."""

_QEMU_IMG: Final = "convert it first: qemu-img convert -O qcow2"
_MAKER: Final = "export it as raw, VHD or VMDK with the program that made it"
_TAKE_DISK: Final = "give the disk that it belongs to"
_DOWNLOAD: Final = "download the image again"


def _of(kind: Kind, remedy: str, **titles: str) -> dict[str, Known]:
    return {name: Known(kind, title, remedy) for name, title in titles.items()}


KNOWN: Final[dict[str, Known]] = {
    "qcow2": Known(Kind.CONTAINER, "qcow2 image"),
    "vhd": Known(Kind.CONTAINER, "VHD image"),
    "vmdk": Known(Kind.CONTAINER, "VMDK image"),
    **_of(
        Kind.CONTAINER,
        _QEMU_IMG,
        qcow1="qcow version 1 image",
        qed="QED image",
        vhdx="VHDX image",
        vdi="VirtualBox VDI image",
        parallels="Parallels image",
        dmg="Apple DMG image",
        cloop="compressed loop (cloop) image",
        bochs="Bochs growing image",
    ),
    **_of(
        Kind.CONTAINER,
        _MAKER,
        cow="user-mode Linux COW image",
        sparseimage="Apple sparse disk image",
        ewf="Expert Witness (E01) image",
        aff="Advanced Forensic Format image",
        vma="Proxmox VMA backup",
        partclone="partclone image",
        ntfsclone="ntfsclone image",
        fsarchiver="FSArchiver archive",
        rbd="Ceph RBD export",
        wim="Windows imaging (WIM) archive",
    ),
    "android-sparse": Known(Kind.CONTAINER, "Android sparse image", "expand it first: simg2img"),
    "luks": Known(
        Kind.CONTAINER, "LUKS encrypted volume", "unlock it with cryptsetup, or give -f raw to keep it encrypted"
    ),
    "ova": Known(Kind.WRAPPER, "OVA archive", "unpack it first: tar -xf, then give the .vmdk in it"),
    "xva": Known(Kind.WRAPPER, "XenServer XVA archive", "export the disk as VHD instead"),
    "gzip": Known(Kind.WRAPPER, "gzip-compressed file", "unpack it first: gzip -d"),
    "xz": Known(Kind.WRAPPER, "xz-compressed file", "unpack it first: xz -d"),
    "lzma": Known(Kind.WRAPPER, "LZMA-compressed file", "unpack it first: xz -d"),
    "zstd": Known(Kind.WRAPPER, "zstd-compressed file", "unpack it first: zstd -d"),
    "bzip2": Known(Kind.WRAPPER, "bzip2-compressed file", "unpack it first: bzip2 -d"),
    "lz4": Known(Kind.WRAPPER, "LZ4-compressed file", "unpack it first: lz4 -d"),
    "lzop": Known(Kind.WRAPPER, "lzop-compressed file", "unpack it first: lzop -d"),
    "lzip": Known(Kind.WRAPPER, "lzip-compressed file", "unpack it first: lzip -d"),
    "compress": Known(Kind.WRAPPER, "compress'ed file", "unpack it first: gzip -d"),
    "tar": Known(Kind.WRAPPER, "tar archive", "unpack it first: tar -xf"),
    "zip": Known(Kind.WRAPPER, "zip archive", "unpack it first: unzip"),
    "7z": Known(Kind.WRAPPER, "7-Zip archive", "unpack it first: 7z x"),
    "rar": Known(Kind.WRAPPER, "RAR archive", "unpack it first: unrar x"),
    "cab": Known(Kind.WRAPPER, "cabinet archive", "unpack it first: cabextract"),
    "cpio": Known(Kind.WRAPPER, "cpio archive", "unpack it first: cpio -i"),
    "ar": Known(Kind.WRAPPER, "ar archive", "unpack it first: ar x"),
    "xar": Known(Kind.WRAPPER, "xar archive", "unpack it first: xar -xf"),
    "rpm": Known(Kind.WRAPPER, "RPM package", "unpack it first: rpm2cpio"),
    **_of(
        Kind.OTHER,
        _TAKE_DISK,
        elf="ELF program",
        pe="Windows or EFI program",
        script="script",
        hive="Windows registry hive",
        ovf="OVF descriptor",
        xml="XML text",
        pdf="PDF document",
        comments="text of comment lines",
    ),
    **_of(Kind.OTHER, _DOWNLOAD, html="web page", git_lfs="Git LFS pointer"),
    **_of(
        Kind.CONTENT,
        "",
        mbr="MBR partition table",
        boot_sector="boot sector signature",
        gpt="GPT partition table",
        apm="Apple partition map",
        bsd="BSD disklabel",
        sun="Sun disklabel",
        sgi="SGI disklabel",
        amiga="Amiga rigid disk block",
        ext="ext2/3/4 file system",
        jbd="ext3/4 journal device",
        xfs="XFS",
        btrfs="Btrfs",
        ntfs="NTFS",
        fat="FAT",
        exfat="exFAT",
        refs="ReFS",
        bitlocker="BitLocker volume",
        hpfs="HPFS",
        iso9660="ISO 9660 file system",
        udf="UDF file system",
        lvm2="LVM2 physical volume",
        swap="Linux swap",
        luks_backup="second LUKS2 header",
        zfs="ZFS member",
        apfs="APFS",
        hfs="HFS",
        hfsplus="HFS+",
        squashfs="SquashFS",
        erofs="EROFS",
        cramfs="cramfs",
        romfs="romfs",
        f2fs="F2FS",
        nilfs2="NILFS2",
        jfs="JFS",
        reiserfs="ReiserFS",
        reiser4="Reiser4",
        gfs2="GFS2",
        ocfs2="OCFS2",
        minix="Minix file system",
        ufs="UFS",
        befs="BeFS",
        bcache="bcache device",
        bcachefs="bcachefs",
        bluestore="Ceph BlueStore",
        scoutfs="ScoutFS",
        vxfs="VxFS",
        netware="NetWare NSS",
        ubifs="UBIFS",
        ubi="UBI",
        zonefs="zonefs",
        asm="Oracle ASM disk",
        vdo="VDO volume",
        stratis="Stratis device",
        drbd="DRBD device",
        md="Linux MD RAID member",
        hpt_raid="HighPoint RAID member",
        lsi_raid="LSI MegaRAID member",
        nvidia_raid="NVIDIA RAID member",
        via_raid="VIA RAID member",
        intel_raid="Intel RAID member",
        ddf_raid="DDF RAID member",
    ),
}

NOT_WHEN_INSIDE: Final = frozenset({"luks"})
"""Containers that are ordinary content when they stand on a guest's disk (TM-405)."""

_SKIPPABLE_ZSTD: Final = tuple(Magic("zstd", 0, bytes((0x50 + n,)) + b"\x2a\x4d\x18") for n in range(16))
_PAGES: Final = (4096, 8192, 16384, 32768, 65536)
_SWAPS: Final = (b"SWAP-SPACE", b"SWAPSPACE2", b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0")
_BCACHE_UUID: Final = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")

MAGICS: Final[tuple[Magic, ...]] = (
    # containers, head
    Magic("qed", 0, b"QED\0"),
    Magic("vhd", 0, b"conectix"),  # Microsoft VHD specification, "Hard Disk Footer Format": copy of a dynamic disk
    Magic("vhdx", 0, b"vhdxfile"),  # MS-VHDX 2.2.1
    Magic("vmdk", 0, b"KDMV"),  # VMware Virtual Disk Format 5.0, "Hosted Sparse Extents"
    Magic("vmdk", 0, b"COWD"),  # ibid., "ESX Server Sparse Extents"
    Magic("vmdk", 0, b"\xbe\xba\xfe\xca\0\0\0\0"),  # seSparse constant header: qemu block/vmdk.c
    Magic("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    Magic("parallels", 0, b"WithoutFreeSpace"),  # qemu docs/interop/parallels.txt
    Magic("parallels", 0, b"WithouFreSpacExt"),
    Magic("cloop", 0, b"#!/bin/sh\n#V2.0 Format\n"),
    Magic("bochs", 0, b"Bochs Virtual HD Image"),
    Magic("cow", 0, b"OOOM"),
    Magic("sparseimage", 0, b"sprs"),
    Magic("ewf", 0, b"EVF\x09\x0d\x0a\xff\x00"),  # libewf, EWF specification
    Magic("ewf", 0, b"LVF\x09\x0d\x0a\xff\x00"),
    Magic("ewf", 0, b"EVF2\x0d\x0a\x81\x00"),
    Magic("aff", 0, b"AFF10\r\n\0"),
    Magic("luks", 0, b"LUKS\xba\xbe"),
    Magic("vma", 0, b"VMA\0"),
    Magic("partclone", 0, b"partclone-image"),
    Magic("ntfsclone", 0, b"\0ntfsclone-image"),
    Magic("fsarchiver", 0, b"FsArCh_"),
    Magic("rbd", 0, b"rbd image v"),
    Magic("wim", 0, b"MSWIM\0\0\0"),
    Magic("android-sparse", 0, b"\x3a\xff\x26\xed"),
    # containers, tail
    Magic("vhd", -512, b"conectix"),
    Magic("vhd", -511, b"conectix"),  # Virtual PC before 2004 wrote footers of 511 bytes (ibid.)
    Magic("dmg", -512, b"koly\0\0\0\4\0\0\2\0"),  # version 4, trailer of 512 bytes
    # wrappers
    Magic("gzip", 0, b"\x1f\x8b\x08"),
    Magic("xz", 0, b"\xfd7zXZ\0"),
    Magic("lzma", 0, b"\x5d\0\0\x80\0"),
    Magic("zstd", 0, b"\x28\xb5\x2f\xfd"),
    *_SKIPPABLE_ZSTD,
    *(Magic("bzip2", 0, b"BZh%d" % n + block) for n in range(1, 10) for block in (b"1AY&SY", b"\x17rE8P\x90")),
    Magic("lz4", 0, b"\x04\x22\x4d\x18"),
    Magic("lz4", 0, b"\x02\x21\x4c\x18"),
    Magic("lzop", 0, b"\x89LZO\0\r\n\x1a\n"),
    Magic("lzip", 0, b"LZIP\1"),
    Magic("compress", 0, b"\x1f\x9d\x90"),
    Magic("zip", 0, b"PK\3\4"),
    Magic("zip", 0, b"PK\5\6"),
    Magic("zip", 0, b"PK\7\x08"),
    Magic("7z", 0, b"7z\xbc\xaf\x27\x1c"),
    Magic("rar", 0, b"Rar!\x1a\7"),
    Magic("cab", 0, b"MSCF\0\0\0\0"),
    Magic("cpio", 0, b"07070"),
    Magic("ar", 0, b"!<arch>\n"),
    Magic("xar", 0, b"xar!"),
    Magic("rpm", 0, b"\xed\xab\xee\xdb"),
    # other
    Magic("elf", 0, b"\x7fELF"),
    Magic("script", 0, b"#!/"),
    Magic("script", 0, b"#! /"),
    Magic("hive", 0, b"regf"),
    Magic("pdf", 0, b"%PDF-"),
    Magic("git_lfs", 0, b"version https://git-lfs"),
    # partition tables
    *(Magic("gpt", offset, b"EFI PART") for offset in (512, 1024, 2048, 4096)),  # UEFI 5.3.2: the block after the first
    *(Magic("gpt", offset, b"EFI PART") for offset in (-512, -1024, -2048, -4096)),
    Magic("apm", 512, b"PM\0\0"),
    Magic("bsd", 512, b"\x57\x45\x56\x82"),
    Magic("bsd", 0, b"\x57\x45\x56\x82"),
    Magic("bsd", 64, b"\x57\x45\x56\x82"),
    Magic("sgi", 0, b"\x0b\xe5\xa9\x41"),
    Magic("amiga", 0, b"RDSK"),
    # file systems
    Magic("xfs", 0, b"XFSB"),
    Magic("btrfs", 0x10040, b"_BHRfS_M"),
    Magic("ntfs", 3, b"NTFS    "),
    Magic("exfat", 3, b"EXFAT   "),
    Magic("refs", 3, b"ReFS\0\0\0\0"),
    Magic("bitlocker", 3, b"-FVE-FS-"),
    Magic("hpfs", 0x2000, b"\x49\xe8\x95\xf9"),
    Magic("iso9660", 0x8001, b"CD001"),
    Magic("iso9660", 0x8009, b"CDROM"),
    Magic("apfs", 32, b"NXSB"),
    Magic("hfsplus", 0x400, b"H+\0\4"),
    Magic("hfsplus", 0x400, b"HX\0\5"),
    Magic("squashfs", 0, b"hsqs"),
    Magic("squashfs", 0, b"sqsh"),
    Magic("erofs", 0x400, b"\xe2\xe1\xf5\xe0"),
    Magic("cramfs", 0, b"\x45\x3d\xcd\x28"),
    Magic("cramfs", 0, b"\x28\xcd\x3d\x45"),
    Magic("romfs", 0, b"-rom1fs-"),
    Magic("f2fs", 0x400, b"\x10\x20\xf5\xf2"),
    Magic("f2fs", 0x1400, b"\x10\x20\xf5\xf2"),
    Magic("nilfs2", 0x400, b"\2\0\0\0\0\0\x34\x34"),
    Magic("jfs", 0x8000, b"JFS1"),
    *(Magic("reiserfs", at, text) for at in (0x2034, 0x10034) for text in (b"ReIsErFs", b"ReIsEr2Fs", b"ReIsEr3Fs")),
    Magic("reiser4", 0x10000, b"ReIsEr4"),
    Magic("gfs2", 0x10000, b"\x01\x16\x19\x70\0\0\0\1"),
    *(Magic("ocfs2", at, b"OCFSV2") for at in (0x400, 0x800, 0x1000, 0x2000)),
    *(Magic("ufs", at + 1372, magic) for at in (0, 0x2000, 0x10000) for magic in (b"\x54\x19\1\0", b"\x19\1\x54\x19")),
    Magic("befs", 0x220, b"1SFB"),
    Magic("befs", 0x220, b"BFS1"),
    Magic("bcache", 0x1008, b"\x08\0\0\0\0\0\0\0"),  # only with the identifier: see COMPANIONS
    Magic("bcachefs", 0x1018, _BCACHE_UUID),
    Magic("bcachefs", 0x1018, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
    Magic("bluestore", 0, b"bluestore block device"),
    Magic("scoutfs", 0x10004, b"\x8b\x42\x3c\x10"),
    Magic("vxfs", 0x400, b"\xf5\xfc\x01\xa5"),
    Magic("vxfs", 0x2000, b"\xa5\x01\xfc\xf5"),
    Magic("netware", 0x1000, b"SPB5"),
    Magic("ubifs", 0, b"\x31\x18\x10\x06"),
    Magic("ubi", 0, b"UBI#"),
    Magic("zonefs", 0, b"SFOZ"),
    # volumes
    *(Magic("lvm2", at, b"LABELONE") for at in (0, 512, 1024, 1536)),
    *(Magic("swap", page - 10, magic) for page in _PAGES for magic in _SWAPS),
    *(Magic("luks_backup", at, b"SKUL\xba\xbe") for at in (0x4000, 0x8000, 0x10000, 0x20000)),
    Magic("asm", 32, b"ORCLDISK"),
    Magic("vdo", 0, b"dmvdo001"),
    Magic("stratis", 516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    Magic("md", 0, b"\xfc\x4e\x2b\xa9\1\0\0\0"),
    Magic("md", 0x1000, b"\xfc\x4e\x2b\xa9\1\0\0\0"),
    Magic("hpt_raid", 0x1220, b"\xf0\x16\x78\x5a"),
    Magic("hpt_raid", 0x1220, b"\xfd\x16\x78\x5a"),
    Magic("hpt_raid", -11 * 512, b"\xf3\x16\x78\x5a"),
    Magic("hpt_raid", -11 * 512, b"\xfd\x16\x78\x5a"),
    Magic("lsi_raid", -512, b"$XIDE$"),
    Magic("nvidia_raid", -1024, b"NVIDIA  "),
    Magic("intel_raid", -1024, b"Intel Raid ISM Cfg Sig. "),
    Magic("ddf_raid", -512, b"\xde\x11\xde\x11"),
    Magic("ddf_raid", -512, b"\x11\xde\x11\xde"),
)

COMPANIONS: Final[dict[str, tuple[int, bytes]]] = {"bcache": (0x1018, _BCACHE_UUID)}
"""Names whose magic counts only together with a second one at this offset."""
