"""The text descriptor of a VMDK: lines to a frozen record, strictly.

A descriptor is a handful of lines: the signature comment, `key=value` lines, extent lines, `ddb.` lines.
Its readers differ widely: some search the whole text for a key, some take the first of two equal keys, some the
last, some skip white space. So everything that two readers could take in two ways is refused (DIFFERENTIAL):
what is left has one meaning. VMware calls the pieces of a disk extents; so does this module, the rest of
diskfmt does not. Source: VMware, Virtual Disk Format 1.1 and 5.0, "The Descriptor File", here "VMDK spec".
"""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NoReturn

from diskfmt.errors import CorruptError, LimitError, Reason, RefusedError
from diskfmt.units import SECTOR

SIGNATURE: Final = b"# Disk DescriptorFile"
NO_PARENT: Final = 0xFFFFFFFF

MAX_LINE: Final = 512  # bytes
MAX_RESIDUE: Final = 6  # bytes: a CID of eight digits that became one of one digit, less the NUL
MAX_DIGITS: Final = 20
MAX_EXTENTS: Final = 32_768
MAX_SIZE: Final = 1 << 63  # bytes of an extent: above, readers overflow

_TEXT_KEYS: Final = frozenset(
    {"encoding", "createType", "parentFileNameHint", "isNativeSnapshot", "changeTrackPath", "encryptionKeys"}
)
_KEYS: Final = _TEXT_KEYS | {"version", "CID", "parentCID"}
_BY_LOWER: Final = {key.lower(): key for key in _KEYS}
# Some readers look for these anywhere in the text: in comments, in values, inside other keys. qemu looks for
# the first two without the sign.
_SEARCHED: Final = (
    b"createtype",
    b"parentfilenamehint",
    *(key.lower().encode() + b"=" for key in sorted(_KEYS - {"createType", "parentFileNameHint"})),
)
_SEARCHED_IN_DDB: Final = (b"createtype", b"parentfilenamehint", b"changetrackpath=", b"cid=")
_ACCESS: Final = frozenset({"RW", "RDONLY", "NOACCESS"})
_DEVICE_WORDS: Final = (b"partitionUUID ", b"deviceIdentifier ")  # what may follow the start in a raw device
_DDB: Final = "ddb."
_CONTROLS: Final = bytes([*range(0x20), 0x7F])

# Names of encodings as VMware writes them, lower case, to Python's names. Others are not guessed.
_CODECS: Final = MappingProxyType(
    {
        "utf-8": "utf-8",
        "us-ascii": "ascii",
        "gbk": "gbk",
        "gb2312": "gb2312",
        "gb18030": "gb18030",
        "big5": "big5",
        "shift_jis": "shift_jis",
        "windows-31j": "cp932",
        "euc-jp": "euc_jp",
        "euc-kr": "euc_kr",
        "ks_c_5601-1987": "euc_kr",
        "euc-cn": "gb2312",
        "big5-hkscs": "big5hkscs",
        **{f"iso-8859-{part}": f"iso8859_{part}" for part in (*range(1, 12), 13, 14, 15, 16)},
        "koi8-r": "koi8_r",
        "koi8-u": "koi8_u",
        "tis-620": "tis_620",
        "macintosh": "mac_roman",
        **{f"windows-{page}": f"cp{page}" for page in ("874", "932", "936", "949", "950", *range(1250, 1259))},
    }
)

_ONE_MEANING: Final = "write a descriptor with one meaning, or convert with the tool that wrote this one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """One extent line. `length` and `start` are in bytes; `start` is where a flat extent begins in its file.

    `kind` is the type as written (FLAT, SPARSE, ZERO, VMFS …), `name` the decoded file name or None,
    `offset` where the line starts in the descriptor's file. `device`: the line names a partition or device.
    """

    access: str
    length: int
    kind: str
    name: str | None
    start: int
    offset: int
    device: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A descriptor. `ddb` holds the disk data base without the `ddb.` of its keys.

    `cid` and `parent_cid` are the content ids; `parent_cid` is NO_PARENT for a disk that stands alone.
    """

    version: int
    encoding: str | None
    cid: int
    parent_cid: int
    create_type: str
    parent_hint: str | None = None
    change_track_path: str | None = None
    encryption_keys: str | None = None
    extents: tuple[Extent, ...] = ()
    ddb: MappingProxyType[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def size(self) -> int:
        """Bytes of the guest disk by the extent lines."""
        return sum(extent.length for extent in self.extents)


def parse(data: bytes, base: int = 0) -> Descriptor:
    """The descriptor whose text, filled up with NULs, is `data`; `base` is where `data` starts in its file.

    Raises:
        RefusedError: DIFFERENTIAL, with the offset of what two readers could take in two ways.
        CorruptError: BAD_VALUE, a value that means nothing, or one that is missing.
        LimitError: LIMIT_METADATA, too many extents; LIMIT_SIZE, an extent too large to count.

    Source: VMDK spec, "The Descriptor File".

    """
    lines = _lines(data, base)
    if not lines or lines[0][1] != SIGNATURE:
        _differ("the first line is not the signature comment", base)
    values: dict[str, tuple[bytes, int]] = {}
    extent_lines: list[tuple[int, bytes]] = []
    for offset, line in lines[1:]:
        if line.startswith(b"#"):
            _require_plain(line, offset)
            _require_no_key(line, offset)
        elif line.split(b" ", 1)[0].decode("latin-1") in _ACCESS:
            if len(extent_lines) == MAX_EXTENTS:
                raise LimitError(f"more than {MAX_EXTENTS} extents", reason=Reason.LIMIT_METADATA, offset=offset)
            extent_lines.append((offset, line))
        elif line:
            key, value = _pair(line, offset)
            if key in values:
                _differ(f"the key {key} appears twice", offset)
            values[key] = (value, offset)
    return _build(values, extent_lines, base)


def _lines(data: bytes, base: int) -> list[tuple[int, bytes]]:
    """Offset and bytes of each line, line ends removed."""
    text = data.rstrip(b"\0")
    nul = text.find(b"\0")
    if nul >= 0 and _is_residue(text[:nul], text[nul + 1 :]):
        text = text[:nul]
    elif nul >= 0:
        _differ("a NUL byte stands before the end of the text", base + nul)
    lines = []
    at = 0
    while at < len(text):
        end = text.find(b"\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end]
        if len(line) > MAX_LINE:
            _differ(f"a line has {len(line)} bytes, more than {MAX_LINE}", base + at)
        line = line.removesuffix(b"\r")
        if b"\r" in line:
            _differ("a carriage return stands without a line feed", base + at + line.index(b"\r"))
        if line.translate(None, _CONTROLS) != line:
            _differ("a tab or another control byte stands in a line", base + at)
        lines.append((base + at, line))
        at = end + 1
    return lines


def _is_residue(text: bytes, rest: bytes) -> bool:
    """Whether what follows the NUL is the end of the same text from before it became shorter.

    qemu writes the CID anew as `%x`, without leading zeroes, and lets the bytes stand by which the text shrank, one of
    them covered by the NUL: one image in 256 has them. Source: qemu block/vmdk.c, vmdk_write_cid.
    """
    return len(rest) <= MAX_RESIDUE and all(text.endswith(part) for part in rest.split(b"\0"))


def _pair(line: bytes, offset: int) -> tuple[str, bytes]:
    """Key and raw value of a `key=value` line; a space may stand on each side of the sign."""
    raw_key, sign, value = line.partition(b"=")
    if not sign:
        _differ("a line is neither a comment, a key with a value, nor an extent", offset)
    raw_key, value = raw_key.removesuffix(b" "), value.removeprefix(b" ")
    _require_plain(raw_key, offset)
    key = raw_key.decode("ascii")
    if not key or " " in key:
        _differ("spaces stand around a key", offset)
    if value[:1] == b" " or value[-1:] == b" ":
        _differ(f"spaces stand around the value of {key}", offset)
    if value[:1] != b'"':
        _require_plain(value, offset)
    if key not in _KEYS and not key.startswith(_DDB):
        lower = key.lower()
        if lower in _BY_LOWER or lower.startswith(_DDB):
            _differ(f"the key {key} differs from a known one by case only", offset)
        _differ(f"the key {key[:64]} is not known", offset)
    if key.startswith(_DDB) and line[: len(key) + 1].rstrip(b" ").lower().endswith(_SEARCHED_IN_DDB):
        _differ(f"the key {key[:64]} contains a key that readers search for", offset)
    _require_no_key(value, offset)
    return key, value


def _require_plain(text: bytes, offset: int) -> None:
    if not text.isascii():
        _differ("a byte above 0x7f stands outside a quoted value", offset)


def _require_no_key(text: bytes, offset: int) -> None:
    """Readers that search the text for a key would find it in this comment or value."""
    lower = text.lower().replace(b" ", b"")
    for key in _SEARCHED:
        if key in lower:
            _differ(f"{key.decode()!r} stands inside a comment or a value", offset)


def _build(values: dict[str, tuple[bytes, int]], extent_lines: list[tuple[int, bytes]], base: int) -> Descriptor:
    encoding = _text(values, "encoding", None)
    version = _decimal(*values["version"]) if "version" in values else 1
    create_type = _text(values, "createType", encoding)
    if create_type is None:
        raise CorruptError("the descriptor has no createType", offset=base, remedy=_ONE_MEANING)
    if "CID" in values and "parentCID" in values and values["parentCID"][1] < values["CID"][1]:
        # A search for "CID=" finds the end of "parentCID=" first.
        _differ("parentCID stands before CID", values["parentCID"][1])
    extents = tuple(_extent(line, offset, encoding) for offset, line in extent_lines)
    ddb = {}
    for key, (value, offset) in values.items():
        if key.startswith(_DDB):
            ddb[key.removeprefix(_DDB)] = _quoted(value, offset, encoding)
    _text(values, "isNativeSnapshot", encoding)
    return Descriptor(
        version=version,
        encoding=encoding,
        cid=_content_id(values, "CID", base),
        parent_cid=_content_id(values, "parentCID", base),
        create_type=create_type,
        parent_hint=_text(values, "parentFileNameHint", encoding),
        change_track_path=_text(values, "changeTrackPath", encoding),
        encryption_keys=_text(values, "encryptionKeys", encoding),
        extents=extents,
        ddb=MappingProxyType(ddb),
    )


def _text(values: dict[str, tuple[bytes, int]], key: str, encoding: str | None) -> str | None:
    return _quoted(*values[key], encoding) if key in values else None


def _quoted(value: bytes, offset: int, encoding: str | None) -> str:
    """The text between the quotes; a value is one quoted text."""
    if len(value) < 2 or value[:1] != b'"' or value[-1:] != b'"' or value.count(b'"') != 2:
        _differ("a value does not have one quote at each end", offset)
    return _decode(value[1:-1], offset, encoding)


def _decode(raw: bytes, offset: int, encoding: str | None) -> str:
    if raw.isascii():
        return raw.decode("ascii")
    if encoding is None:
        _differ("a value has bytes above 0x7f and no encoding is declared", offset)
    codec = _CODECS.get(encoding.lower())
    if codec is None:
        _differ(f"a value is written in the unknown encoding {encoding[:64]!r}", offset)
    try:
        return raw.decode(codec)
    except UnicodeDecodeError:
        _differ(f"a value is not written in its declared encoding {encoding}", offset)


def _decimal(text: bytes, offset: int) -> int:
    if not text.isdigit() or len(text) > MAX_DIGITS or (text[:1] == b"0" and len(text) > 1):
        _differ(f"{text[:32]!r} is not a plain decimal number", offset)
    return int(text)


def _content_id(values: dict[str, tuple[bytes, int]], key: str, base: int) -> int:
    if key not in values:
        raise CorruptError(f"the descriptor has no {key}", offset=base, remedy=_ONE_MEANING)
    text, offset = values[key]
    if not 1 <= len(text) <= 8 or text.translate(None, b"0123456789abcdefABCDEF"):
        _differ(f"{key} is {text[:32]!r}, not one to eight hexadecimal digits", offset)
    return int(text, 16)


def _extent(line: bytes, offset: int, encoding: str | None) -> Extent:
    """`RW 4192256 SPARSE "name"`, with an offset in sectors behind the name of a flat extent.

    Source: VMDK spec, "The Extent Description".
    """
    before, quote, rest = line.partition(b'"')
    _require_plain(before, offset)
    words = before.removesuffix(b" ").split(b" ") if quote else before.split(b" ")
    if len(words) != 3 or (quote and before[-1:] != b" "):
        _differ("an extent line is not access, size, type, quoted name, each after one space", offset)
    access, kind = words[0].decode("ascii"), words[2].decode("ascii")
    if not kind.isalnum() or not kind.isupper():
        _differ(f"the extent type {kind[:32]!r} is not a word in capitals", offset)
    length = _decimal(words[1], offset) * SECTOR
    if length > MAX_SIZE:
        raise LimitError(f"an extent of {length // SECTOR} sectors cannot be counted in bytes", offset=offset)
    if not quote:
        return Extent(access=access, length=length, kind=kind, name=None, start=0, offset=offset)
    raw_name, closing, tail = rest.partition(b'"')
    if not closing:
        _differ("the name of an extent has no closing quote", offset)
    _require_no_key(raw_name, offset)
    start, device = 0, False
    if tail:
        if kind not in ("FLAT", "VMFS") or tail[:1] != b" ":
            _differ("text follows a complete extent line", offset)
        number, space, more = tail[1:].partition(b" ")
        device = more.startswith(_DEVICE_WORDS)
        if space and not device:
            _differ("text follows a complete extent line", offset)
        start = _decimal(number, offset) * SECTOR
    elif kind == "FLAT":
        _differ("a flat extent does not say where it starts in its file", offset)
    name = _decode(raw_name, offset, encoding)
    return Extent(access=access, length=length, kind=kind, name=name, start=start, offset=offset, device=device)


def _differ(message: str, offset: int) -> NoReturn:
    raise RefusedError(f"descriptor: {message}", reason=Reason.DIFFERENTIAL, offset=offset, remedy=_ONE_MEANING)
