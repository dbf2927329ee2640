"""What diskfmt says about each image of the corpus that it does not read as it is, and why.

The corpus states an expectation (`good`, `warn`, `refuse`, …); these tables make it exact. An image that is in no
table must be read, byte for byte, without a doubt.
"""

from diskfmt.errors import Reason

# Refused, by the first reason that stops a conversion.
_REFUSED: dict[Reason, str] = {
    Reason.BAD_CHECKSUM: "dfvfs-differential-vhd",  # its footers do not sum up; qemu-img and vhd-util say so too
    Reason.BAD_VALUE: """
        qcow2-backing-len-1024 qcow2-clusterbits-0 qcow2-ext-len-max qcow2-ext-len-past-cluster qcow2-headerlen-72
        qcow2-extl2-both-bits
        qcow2-incompat-extl2-4k qcow2-l1entry-unaligned qcow2-l2entry-unaligned qcow2-size-2TiB-smallL1
        qfuzz-all-006 qfuzz-all-014 vhd-blocksize-3145728 vhd-dynheader-cookie-bad vhd-fixed-size-zero
        vhd-size-larger-than-bat vhd-type-1 vmdk-gtes-0 vmdk-gtes-1 vmdk-gtes-4294967295
        vmdk-stream-marker-size-zero qemu-afl9
    """,
    Reason.CORRUPT_DATA: """
        qcow2-compressed-damaged-tail qcow2-compressed-garbage qcow2-compressed-shorter-than-cluster
        qcow2-compressed-zstd-as-zlib vmdk-stream-inflate-bomb
    """,
    Reason.CORRUPT_FLAG: "qfuzz-l2-005",
    Reason.DIFFERENTIAL: """
        qcow2-backing-nul qfuzz-ext-110
        vhd-fixed-size-small vhd-footers-differ-size vmdk-capacity-not-descriptor vmdk-desc-cid-bad vmdk-desc-nul
        vmdk-desc-parent-json vmdk-stream-gdoff-in-header-and-footer vmdk-text-bom vmdk-text-duplicate-createtype
        vmdk-text-extent-size-2p70 vmdk-text-extent-size-negative vmdk-text-no-quotes
    """,
    Reason.ENCRYPTED: "qcow2-luks qcow2-crypt-7",
    Reason.EXTERNAL_REFERENCE: """
        qcow2-backing-chain3 qcow2-datafile-raw vhd-vhdutil-differencing vmdk-delta
        qcow2-backing-etc-passwd qcow2-backing-etc-passwd-raw qcow2-backing-http-metadata qcow2-backing-json-file
        qcow2-backing-json-host-device qcow2-backing-loop2 qcow2-datafile-etc-passwd
        qcow2-datafile-raw-etc-passwd qfuzz-ext-052 qfuzz-ext-139 qfuzz-l1-029 qfuzz-l1-044
        qfuzz-l1-087 qfuzz-l1-102 qfuzz-l2-045 qfuzz-l2-102 qfuzz-rc-019 qfuzz-rc-025 qfuzz-rc-078
        vhd-parent-etc-passwd vhd-parent-self vhd-type-4-noparent vmdk-text-backslash vmdk-text-etc-passwd
        vmdk-text-missing-extent vmdk-text-vmfs-etc-passwd cdi-cirros-snapshot1
        vmdk-custom-mixed-extents
    """,
    Reason.FORMAT_MISMATCH: """
        cut-vhd-fixed-07 cut-vhd-fixed-08 cut-vhd-fixed-11 cut-vhd-fixed-12 cut-vhd-fixed-13 cut-vhd-fixed-14
        cut-vhd-fixed-17 mix-qcow2-named-vhd mix-raw-xz mix-vhdx-named-vhd vmdk-magic-bad
    """,
    Reason.LIMIT_METADATA: """
        qcow2-clusterbits-31 qcow2-l1size-huge qcow2-l1size-max qfuzz-hdr-060 vhd-blocksize-2147483648
        vmdk-grainsize-1048576 vmdk-grainsize-1099511627776
    """,
    Reason.LIMIT_SIZE: """
        qcow2-size-max qcow2-size-neg qfuzz-all-039 qfuzz-hdr-042 vhd-size-max vmdk-text-extent-size-overflow
    """,
    Reason.NESTED_FORMAT: "mix-vhd-fixed-with-qcow2-head",
    Reason.OUT_OF_FILE: "cut-vhd-dynamic-04 qcow2-l2-compressed-beyond-eof vhd-bat-entries-max",
    Reason.OVERLAP: "qcow2-backing-off-in-header qcow2-l1off-zero vmdk-gte-header cdi-invalid-large-json",
    Reason.READ_ERROR: "vmdkrs-monolithicFlat-descriptor",  # the piece that it names is not there
    Reason.SHARED_CLUSTERS: "qcow2-amplify-4TiB",
    Reason.TRUNCATED: """
        raw-empty-file cut-qcow2-02 cut-qcow2-03 cut-qcow2-07 cut-qcow2-12 cut-qcow2-15 cut-qcow2-17 cut-qcow2-19
        cut-qcow2-zlib-01 cut-qcow2-zlib-08 cut-qcow2-zlib-09 cut-qcow2-zlib-11 cut-qcow2-zlib-15 cut-qcow2-zlib-18
        cut-vhd-dynamic-05 cut-vhd-dynamic-10 cut-vhd-dynamic-11 cut-vhd-dynamic-12 cut-vhd-dynamic-13
        cut-vmdk-qstream-01 cut-vmdk-qstream-03 cut-vmdk-qstream-05 cut-vmdk-qstream-08 cut-vmdk-qstream-12
        cut-vmdk-sparse-01 cut-vmdk-sparse-02 cut-vmdk-sparse-04 cut-vmdk-sparse-05 cut-vmdk-sparse-08
        cut-vmdk-sparse-11 cut-vmdk-sparse-12 cut-vmdk-stream-03 cut-vmdk-stream-04 cut-vmdk-stream-09
        cut-vmdk-stream-10 cut-vmdk-stream-11 cut-vmdk-stream-16 cut-vmdk-stream-17 qcow2-l1size-beyond-eof
        vhd-fixed-cut vhd-fixed-size-large vhd-trailing-garbage-odd vmdk-gdoff-beyond-eof vmdk-gdoff-max
    """,
    Reason.UNKNOWN_FEATURE: "qcow2-incompat-bit17 vmdk-version-0 vmdk-version-4 vmdk-version-4294967295",
    Reason.UNKNOWN_FORMAT: "mix-one-byte",
    Reason.UNSUPPORTED_SUBFORMAT: """
        mix-qcow2-all-zero qfuzz-all-091 qfuzz-all-093
        vmdk-text-fulldevice dissect-sesparse-vmdk
    """,
}

# Read, and a warning of `check --deep` gives (among others) this reason.
_DOUBTED: dict[Reason, str] = {
    Reason.BAD_VALUE: """
        raw-odd-bytes qcow2-ext-backingfmt-nobacking qcow2-refcount-order-7 vhd-features-reserved-clear
        utillinux-fs-drbd-v08 qcow2-bitmap-granularity-63
    """,
    Reason.DIFFERENTIAL: """
        vhd-bitmap-zero vhd-geometry-mismatch-unknown-creator vhd-geometry-mismatch-win vhd-geometry-mismatch-vpc
        vhd-geometry-zero vmdk-rgd-differs vmdk-stream-trailing-zeros qemu-virtualpc-dynamic
        vhdforensic-original-size-mismatch
    """,
    Reason.LEAKED: "qcow2-refcounts-high",
    Reason.LIMIT_METADATA: "qcow2-bitmaps-huge qcow2-nsnap-huge qcow2-snap-extra-huge",
    Reason.NESTED_FORMAT: "mix-raw-with-qcow2-magic",
    Reason.OUT_OF_FILE: "qcow2-bitmaps-beyond-eof qcow2-refblock-beyond-eof",
    Reason.TRUNCATED: """
        cut-gpt-06 cut-gpt-08 cut-gpt-13 cut-gpt-15 cut-gpt-17 cut-gpt-18 cut-gpt-19 cut-vhd-dynamic-18
        disk-mbr-part-beyond vhd-end-cookie-bad dissect-vol-gpt-hybrid grr-ntfs qemu-grub-mbr
        qcow2-bitmap-table-huge qcow2-snapoff-beyond-eof vmdk-stream-eos-missing
    """,
    Reason.UNCLEAN: "qcow2-lazy-dirty",
}

# Meant to be damaged, but everything that belongs to the disk is there: what was cut off is padding behind the
# last frame (qcow2), or footer and end-of-stream marker of a stream whose tables stand in front; and a size that
# only some clouds refuse.
_SOUND = "cut-qcow2-zlib-19 cut-vmdk-qstream-17 cut-vmdk-qstream-18 masahiro-stream-cut vhd-fixed-not-mib"

# Sizes that differ from the manifest's, which are qemu-img's or libyal's answer.
SIZES: dict[str, int] = {
    "raw-odd-bytes": 4194404,  # a raw file is as long as it is; qemu-img adds to a whole sector
    "utillinux-fs-drbd-v08": 1474561,
    "qemu-virtualpc-dynamic": 136363130880,  # creator `vpc `: the geometry counts, as in qemu-img and in Virtual PC
}


def _table(reasons: dict[Reason, str]) -> dict[str, Reason]:
    return {case: reason for reason, cases in reasons.items() for case in cases.split()}


REFUSED = _table(_REFUSED)
DOUBTED = _table(_DOUBTED)
SOUND = frozenset(_SOUND.split())
