"""The copies of a VHD's footer: one at the end of the file, and in a dynamic or differencing disk one at its head.

Which one counts: the one at the end if its checksum is right, otherwise the one at the head.
Source: VHD spec, "Hard Disk Footer Format".
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from diskfmt.errors import Finding, Reason, RefusedError
from diskfmt.formats.vhd.findings import COPY_AGAIN, ERROR, WARNING, finding
from diskfmt.formats.vhd.records import FIXED, FOOTER_COOKIE, FOOTER_SIZE, OLD_FOOTER_SIZE, Footer, parse_footer
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR

_DECIDING: Final = frozenset(
    {
        "version",
        "data_offset",
        "creator",
        "original_size",
        "current_size",
        "cylinders",
        "heads",
        "sectors",
        "disk_type",
    }
)  # fields that make some reader show other bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One copy of the footer: where it is, and whether its checksum is right."""

    footer: Footer
    good: bool
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """The copies with a cookie, None where there is none; `chosen` is the one that counts."""

    tail: Copy | None
    head: Copy | None
    chosen: Copy


def read_copies(source: SourceFile) -> Copies:
    """Both copies of the footer.

    Raises:
        RefusedError: FORMAT_MISMATCH, neither is there.

    """
    tail, head = _read_tail(source), _read_head(source)
    return Copies(tail=tail, head=head, chosen=_choose(tail, head))


def _read_tail(source: SourceFile) -> Copy | None:
    """The footer at the end: the last 512 bytes, or the last 511 as Virtual PC before 2004 wrote them."""
    for size in (FOOTER_SIZE, OLD_FOOTER_SIZE):
        offset = source.size - size
        if offset < 0:
            continue
        footer, good = parse_footer(source.read_at(offset, size))
        if footer.cookie == FOOTER_COOKIE:
            return Copy(footer=footer, good=good, offset=offset)
    return None


def _read_head(source: SourceFile) -> Copy | None:
    if source.size < 2 * FOOTER_SIZE:
        return None
    footer, good = parse_footer(source.read_at(0, FOOTER_SIZE))
    return Copy(footer=footer, good=good, offset=0) if footer.cookie == FOOTER_COOKIE else None


def _choose(tail: Copy | None, head: Copy | None) -> Copy:
    if tail and (tail.good or not head or not head.good):
        return tail
    if head:
        return head
    raise RefusedError(
        "no VHD footer: neither the end nor the head of the file has the cookie 'conectix'",
        reason=Reason.FORMAT_MISMATCH,
        remedy="name the right format, or copy the image again if it was cut short",
    )


def copies_findings(copies: Copies, size: int) -> Iterator[Finding]:
    """What is wrong with the copies, alone and compared, and with the length of the file: `size` bytes."""
    yield from _about_the_length(copies.tail, size)
    yield from _about_checksums(copies)
    if copies.chosen.footer.disk_type == FIXED:
        if copies.head:
            yield finding(
                ERROR,
                Reason.DIFFERENTIAL,
                0,
                "a fixed disk starts with a footer, which some readers take for the image's own",
                "check where the image comes from; the guest may have forged it",
            )
    else:
        yield from _about_the_head(copies.tail, copies.head)


def _about_the_length(tail: Copy | None, size: int) -> Iterator[Finding]:
    odd = size % SECTOR
    if tail is None:
        yield finding(
            ERROR if odd else WARNING,
            Reason.TRUNCATED,
            size,
            "no footer at the end: the file was cut short, or something was appended; the copy at the head is used",
            COPY_AGAIN,
        )
    elif odd == OLD_FOOTER_SIZE and tail.offset % SECTOR == 0:
        yield finding(
            WARNING,
            Reason.DIFFERENTIAL,
            tail.offset,
            "footer of 511 bytes, as Virtual PC before 2004 wrote it: most readers look for 512",
            "append one zero byte to a copy of the file for other tools",
        )
    elif odd:
        yield finding(
            ERROR,
            Reason.DIFFERENTIAL,
            size,
            f"file length {size} is not a multiple of 512: readers look for the footer in different places",
            COPY_AGAIN,
        )


def _about_checksums(copies: Copies) -> Iterator[Finding]:
    if not copies.chosen.good:
        yield finding(
            ERROR,
            Reason.BAD_CHECKSUM,
            copies.chosen.offset,
            "no copy of the footer has the right checksum",
            COPY_AGAIN,
        )
    elif copies.tail and not copies.tail.good:
        yield finding(
            WARNING,
            Reason.BAD_CHECKSUM,
            copies.tail.offset,
            "wrong checksum in the footer at the end: the copy at the head is used",
            COPY_AGAIN,
        )


def _about_the_head(tail: Copy | None, head: Copy | None) -> Iterator[Finding]:
    """What is wrong with the copy at the head, alone and beside the footer at the end."""
    if head is None:
        yield finding(
            WARNING,
            Reason.BAD_VALUE,
            0,
            "no copy of the footer at the head: some readers cannot open the image",
            COPY_AGAIN,
        )
    elif tail and tail.good and not head.good:
        yield finding(
            WARNING, Reason.BAD_CHECKSUM, 0, "wrong checksum in the copy of the footer at the head", COPY_AGAIN
        )
    elif tail and tail.good == head.good and (names := _different(tail.footer, head.footer)):
        decides = not _DECIDING.isdisjoint(names) or tail.footer.old_bits != head.footer.old_bits
        yield finding(
            ERROR if decides else WARNING,
            Reason.DIFFERENTIAL,
            0,
            f"the copies of the footer differ in {', '.join(names)}",
            "repair the image with the tool that wrote it",
        )


def _different(one: Footer, other: Footer) -> list[str]:
    """Names of the fields in which two footers differ.

    The checksum follows from the others; tapdisk before 1.2 marked a disk as hidden in the copy at the head only.
    """
    names = [field.name for field in fields(Footer) if field.name not in ("checksum", "hidden")]
    return [name for name in names if getattr(one, name) != getattr(other, name)]
