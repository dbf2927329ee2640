"""What machine a program is for: the header of an ELF file.

Source: System V ABI, ELF header; e_machine numbers of the gABI registry.
"""

from typing import Final

_MACHINES: Final = {
    3: "i386",
    62: "x86_64",
    40: "arm",
    183: "aarch64",
    243: "riscv64",
    21: "ppc64",
    22: "s390x",
    8: "mips",
    258: "loongarch64",
}
HEADER: Final = 20
PROGRAMS: Final = (
    "/usr/bin/sh",
    "/bin/sh",
    "/usr/bin/bash",
    "/bin/bash",
    "/bin/busybox",
    "/usr/bin/coreutils",
    "/sbin/init",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux.so.2",
)


def machine(head: bytes) -> str | None:
    """The machine's name (`x86_64`, `aarch64`, `i386` …), `machine-N` for others, None for what is no ELF file."""
    if len(head) < HEADER or head[:4] != b"\x7fELF" or head[5] not in (1, 2):
        return None
    number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    name = _MACHINES.get(number, f"machine-{number}")
    if name == "ppc64" and head[5] == 1:
        return "ppc64le"
    if name == "riscv64" and head[4] == 1:
        return "riscv32"
    return name
