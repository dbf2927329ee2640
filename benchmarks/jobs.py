"""What is measured: pairs of formats, and how each tool is asked for them."""

from dataclasses import dataclass

# name → (qemu-img's format, its options, our -O, our further words)
TARGETS = {
    "raw": ("raw", (), "raw", ()),
    "qcow2": ("qcow2", (), "qcow2", ()),
    "VHD dynamic": ("vpc", ("-o", "force_size=on"), "vhd:dynamic", ()),
    "VHD fixed": ("vpc", ("-o", "subformat=fixed,force_size=on"), "vhd:fixed", ()),
    "VMDK sparse": ("vmdk", (), "vmdk:monolithicSparse", ()),
    "VMDK flat": ("vmdk", ("-o", "subformat=monolithicFlat"), "vmdk:monolithicFlat", ()),
    "VMDK stream": ("vmdk", ("-o", "subformat=streamOptimized"), "vmdk:streamOptimized", ()),
    "qcow2 zlib": ("qcow2", ("-c",), "qcow2", ("-c", "zlib")),
    "qcow2 zstd": ("qcow2", ("-c", "-o", "compression_type=zstd"), "qcow2", ("-c", "zstd")),
}
COMPRESSED = ("VMDK stream", "qcow2 zlib", "qcow2 zstd")
PLAIN = tuple(name for name in TARGETS if name not in COMPRESSED)
SOURCES = tuple(name for name in PLAIN if name not in ("VHD fixed", "VMDK flat"))  # which are read as raw is


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One conversion of the source of kind `source` into a file of kind `target`."""

    source: str
    target: str

    @property
    def name(self) -> str:
        """As in the tables."""
        return f"{self.source} → {self.target}"

    def outputs(self, stem: str) -> list[str]:
        """The files that a run leaves, the named one first."""
        if self.target == "VMDK flat":
            return [f"{stem}.vmdk", f"{stem}-flat.vmdk"]
        return [f"{stem}.{TARGETS[self.target][0]}"]

    def ours(self, program: str, source: str, stem: str) -> list[str]:
        """The command for diskfmt."""
        _, _, name, words = TARGETS[self.target]
        return [program, "convert", "--progress", "none", "-O", name, *words, source, self.outputs(stem)[0]]

    def theirs(self, source: str, stem: str, *words: str) -> list[str]:
        """The command for qemu-img, with further words."""
        name, options, _, _ = TARGETS[self.target]
        source_format = TARGETS[self.source][0]
        return ["qemu-img", "convert", *words, "-f", source_format, "-O", name, *options, source, self.outputs(stem)[0]]


def all_jobs() -> list[Job]:
    """Plain to plain, compressed to plain, plain to compressed."""
    pairs = [(source, target) for source in SOURCES for target in PLAIN]
    pairs += [(source, target) for source in COMPRESSED for target in ("raw", "qcow2")]
    pairs += [("raw", target) for target in COMPRESSED]
    return [Job(source=source, target=target) for source, target in pairs]
