"""The arguments of every command. Names follow qemu-img where it has the same thing."""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NoReturn

from diskfmt.errors import UsageError

if TYPE_CHECKING:
    from diskfmt.cli.console import Console

COMMANDS: Final[dict[str, str]] = {
    "info": "what an image is, from its header; opens nothing that it names",
    "map": "where the bytes of the guest's disk are in the file",
    "check": "whether the container is intact",
    "ready": "whether a cloud will import it, and whether it will boot there",
    "convert": "write the disk into a new file of another format",
    "compare": "whether two images hold the same disk",
    "digest": "a digest of the guest's disk, equal across formats",
    "measure": "how large a conversion's output will be",
    "profiles": "the clouds that are known, and what they take",
    "rules": "the rules of the readiness check",
}

_EPILOG: Final = """\
example: diskfmt convert -O qcow2 -c zstd vm.vmdk vm.qcow2
`diskfmt COMMAND -h` explains a command.

exit codes: 0 ok, equal   1 refused, different   2 usage   3 corrupt or cut short   4 I/O error
            5 no space   6 in use or changed   7 limit   8 internal error   128+n signal n"""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all errors are."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, remedy=f"see {self.prog} -h")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments as a namespace with `command` and its options.

    Raises:
        UsageError: they make no sense.
        SystemExit: after -h.

    """
    options = _build().parse_args(words)
    if options.command is None and not options.version:
        raise UsageError(f"say what to do: {', '.join(COMMANDS)}", remedy="see diskfmt -h")
    return options


def _build() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="diskfmt",
        description="Inspect, check and convert disk images: raw, qcow2, VHD, VMDK.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and the codecs of this build")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    for name, example in _EXAMPLES.items():
        command = commands.add_parser(
            name,
            help=COMMANDS[name],
            description=f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.",
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _ARGUMENTS[name](command)
        forms = ("human", "json", "sarif", "junit") if name == "ready" else ("human", "json")
        command.add_argument("--output", choices=forms, default="human", help="form of the result (default: human)")
    return parser


# ---- one function a command ------------------------------------------------------------------------------------------


def _info(parser: argparse.ArgumentParser) -> None:
    _source_format(parser)
    parser.add_argument(
        "--backing-chain",
        action="store_true",
        help="a list of the image and those below it, as far as --follow opens them",
    )
    _references(parser, snapshot=False)
    parser.add_argument("image", metavar="IMAGE")


def _map(parser: argparse.ArgumentParser) -> None:
    _source_format(parser)
    parser.add_argument("--regions", action="store_true", help="what each byte of the file is for, from first to last")
    _references(parser)
    parser.add_argument("image", metavar="IMAGE")


def _check(parser: argparse.ArgumentParser) -> None:
    _source_format(parser)
    parser.add_argument("--deep", action="store_true", help="also decode all compressed data")
    _references(parser, snapshot=False)
    parser.add_argument("image", metavar="IMAGE")


def _ready(parser: argparse.ArgumentParser) -> None:
    _source_format(parser)
    parser.add_argument(
        "--for",
        dest="profile",
        required=True,
        metavar="PROFILE",
        help="the cloud: a name of `diskfmt profiles`, with +SWITCH, or a TOML file",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="also what passed")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page")
    parser.add_argument(
        "--waive", action="append", default=[], metavar="RULE", help="this rule is not to count; repeatable"
    )
    _references(parser, snapshot=False)
    parser.add_argument("image", metavar="IMAGE")


def _profiles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="explain this one, with its sources")


def _rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", metavar="RULE", help="explain this one: what it means to each cloud")


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.usage = "diskfmt convert [-f FMT] -O FMT[:SUBFORMAT] [options] SOURCE TARGET"
    _source_format(parser)
    _target(parser)
    _references(parser)
    parser.add_argument(
        "-B",
        dest="below",
        metavar="PARENT",
        help="write a difference to this image, which TARGET then records (relative: beside TARGET)",
    )
    parser.add_argument(
        "--recompress", action="store_true", help="make compressed data anew where that of SOURCE could be kept"
    )
    parser.add_argument("--verify", action="store_true", help="read the output back and compare digests")
    parser.add_argument("--force", action="store_true", help="replace an existing TARGET")
    parser.add_argument("--threads", type=_count, metavar="N", help="worker threads (default: one a core, at most 8)")
    parser.add_argument("--no-sync", action="store_true", help="do not wait until the output is durable")
    parser.add_argument(
        "--waive", action="append", default=[], metavar="CODE", help="convert in spite of this reason code; repeatable"
    )
    _progress(parser)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("target", metavar="TARGET")


def _compare(parser: argparse.ArgumentParser) -> None:
    _source_format(parser)
    parser.add_argument("-F", dest="second_format", metavar="FMT", help="format of B; otherwise its content decides")
    parser.add_argument("-s", "--strict", action="store_true", help="disks of different size are different")
    _references(parser, snapshot=False)
    _progress(parser)
    parser.add_argument("first", metavar="A")
    parser.add_argument("second", metavar="B")


def _digest(parser: argparse.ArgumentParser) -> None:
    _source_format(parser)
    _references(parser)
    _progress(parser)
    parser.add_argument("image", metavar="IMAGE")


def _measure(parser: argparse.ArgumentParser) -> None:
    _source_format(parser)
    _target(parser)
    _references(parser)
    parser.add_argument("--exact", action="store_true", help="compress everything, not a sample")
    parser.add_argument("image", metavar="IMAGE")


_ARGUMENTS: Final = {
    "info": _info,
    "map": _map,
    "check": _check,
    "ready": _ready,
    "convert": _convert,
    "compare": _compare,
    "digest": _digest,
    "measure": _measure,
    "profiles": _profiles,
    "rules": _rules,
}

_EXAMPLES: Final = {
    "info": "diskfmt info --output json vm.vmdk",
    "map": "diskfmt map vm.qcow2",
    "check": "diskfmt check --deep vm.vhd",
    "ready": "diskfmt ready --for tencent-cvm vm.vmdk",
    "convert": "diskfmt convert -O qcow2 -c zstd --verify vm.vmdk vm.qcow2",
    "compare": "diskfmt compare vm.vmdk vm.qcow2",
    "digest": "diskfmt digest vm.vmdk",
    "measure": "diskfmt measure -O vmdk:streamOptimized vm.qcow2",
    "profiles": "diskfmt profiles tencent-cvm",
    "rules": "diskfmt rules initramfs-virtio-blk",
}

# ---- what several commands share -------------------------------------------------------------------------------------


def _source_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f", dest="source_format", metavar="FMT", help="format of the image; otherwise its content decides"
    )


def _target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-O", dest="format", metavar="FMT[:SUBFORMAT]", help="format to write: raw, qcow2, vhd, vmdk; `-O help`"
    )
    parser.add_argument(
        "-o", dest="options", action="append", default=[], metavar="K=V,...", help="options of that format; `-o help`"
    )
    parser.add_argument(
        "-c",
        "--compress",
        type=_codec,
        metavar="CODEC[:LEVEL]",
        help="compress the output: zlib or zstd, as in zstd:7",
    )


def _references(parser: argparse.ArgumentParser, *, snapshot: bool = True) -> None:
    parser.add_argument(
        "--follow",
        default="pieces",
        metavar="WHERE",
        help="open the image below (backing file, parent) and the data file: same-directory, or the DIR that has them",
    )
    parser.add_argument(
        "--below-format", metavar="FMT", help="format of an image below where the one above does not record it"
    )
    if snapshot:
        parser.add_argument(
            "--snapshot", metavar="NAME", help="the disk as it was at this internal snapshot (id or name)"
        )


def _progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--progress",
        choices=("auto", "bar", "json", "none"),
        default="auto",
        help="on stderr (default: a bar on a terminal)",
    )


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads")
    return int(text)


def _codec(text: str) -> str:
    """The text itself, once it is proven to name a codec: after qemu-img's `-c` comes a file name."""
    from diskfmt.conversion.target import parse_compress

    try:
        parse_compress(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.message}: {error.remedy}") from None
    return text


# ---- -O help, -o help ------------------------------------------------------------------------------------------------


def wants_option_help(words: Sequence[str]) -> bool:
    """Whether `-O help` or `-o help` is asked for, which needs no file names."""
    if not words or words[0] not in ("convert", "measure"):
        return False
    return any(name in ("-o", "-O") and value in ("help", "?") for name, value in pairwise(words))


def print_option_help(words: Sequence[str], console: "Console") -> int:
    """List the formats, or the options of the one that `-O` names. Raises UsageError: there is no such format."""
    from diskfmt.conversion.target import parse_target
    from diskfmt.formats import FORMATS

    wanted = next((value for name, value in pairwise(words) if name == "-O"), None)
    if wanted in (None, "help", "?"):
        if wanted is None:
            raise UsageError("-o help needs -O, the format whose options it lists", remedy=f"see diskfmt {words[0]} -h")
        console.write_lines(f"{entry.name:<6} {', '.join(entry.subformats)}" for entry in FORMATS)
        return 0
    entry = parse_target(str(wanted)).format
    width = max(map(len, entry.options), default=0)
    console.write_lines(f"{name:<{width}}  {text}" for name, text in entry.options.items())
    if not entry.options:
        console.write(f"{entry.name} has no options\n")
    return 0
