"""GRUB's menu: which entry it starts, with which kernel, initramfs and arguments.

Sources: GNU GRUB manual 2.06, "Simple configuration handling", "menuentry", "blscfg" of Fedora's GRUB; the GRUB
environment block. GRUB 0.97: info manual "Configuration".
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import BudgetError
from diskfmt.guest.linux.boot_entry import BootEntry, kernel_args
from diskfmt.guest.linux.grub_script import Interpreter, Statement, parse
from diskfmt.guest.linux.text import decode, lines, significant

MAX_MENU: Final = 2000
_LINUX: Final = frozenset({"linux", "linux16", "linuxefi", "kernel", "module2", "multiboot2"})
_INITRD: Final = frozenset({"initrd", "initrd16", "initrdefi"})
# What GRUB 2 has set before it reads its configuration.
_PRESET: Final = {
    "feature_menuentry_id": "y",
    "feature_timeout_style": "y",
    "feature_default_font_path": "y",
    "feature_all_video_module": "y",
    "feature_platform_search_hint": "y",
    "feature_chainloader_bpb": "y",
    "feature_ntldr": "y",
    "feature_200_final": "y",
    "feature_nativedisk_cmd": "y",
    "menuentry_id_option": "--id",
}
PREFIX: Final = "(prefix)"
"""Stands for the directory of the configuration in paths that are asked for."""

Snippets = Callable[[Mapping[str, str]], tuple[BootEntry, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MenuItem:
    """A line of the menu: an entry, or a submenu with children (then `entry` is None)."""

    title: str
    id: str
    entry: BootEntry | None
    children: tuple["MenuItem", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Menu:
    """A loader's menu. `default`: as it is written; `uncertain`: it depends on what only the machine knows.

    `continues`: other configurations that this one goes on with, as they are written. `device`: the UUID or label of
    the file system that it looks for outside of entries.
    """

    source: str
    items: tuple[MenuItem, ...]
    default: str
    uncertain: bool = False
    continues: tuple[str, ...] = ()
    device: str = ""

    @property
    def entries(self) -> tuple[BootEntry, ...]:
        """All entries in order, those of submenus too."""
        return tuple(_leaves(self.items))

    @property
    def chosen(self) -> BootEntry | None:
        """The entry that starts by itself: the default, or the first where there is no such one."""
        items, found = self.items, None
        for step in _steps(self.default):
            item = _pick(items, step)
            if item is None:
                return next(iter(self.entries), None)
            found, items = item, item.children
        if found is None:
            return next(iter(self.entries), None)
        return found.entry or next(iter(_leaves(found.children)), None)


def _leaves(items: Iterable[MenuItem]) -> Iterable[BootEntry]:
    for item in items:
        if item.entry is not None:
            yield item.entry
        yield from _leaves(item.children)


def _steps(default: str) -> list[str]:
    """`1>2`, `title>title`; `>>` is a `>` of a title."""
    return [step.replace("\0", ">").strip() for step in default.replace(">>", "\0").split(">") if step.strip()]


def _pick(items: tuple[MenuItem, ...], step: str) -> MenuItem | None:
    if step.isascii() and step.isdigit():
        number = int(step[:6])
        return items[number] if number < len(items) else None
    return next((item for item in items if step in (item.id, item.title)), None)


def parse_env(data: bytes) -> dict[str, str]:
    """The variables of a GRUB environment block: `name=value` lines, backslashes escape, `#` fills it up."""
    found: dict[str, str] = {}
    for _, line in lines(data):
        name, equals, value = line.partition(b"=")
        if equals and not line.startswith(b"#"):
            found[decode(name)] = decode(value.replace(b"\\\\", b"\0").replace(b"\\", b"").replace(b"\0", b"\\"))
    return found


class _Reader:
    """Makes a menu of the statements. `bls`: the entries that `blscfg` stands for."""

    def __init__(self, data: bytes, source: str, env: Mapping[str, str] | None, bls: Snippets) -> None:
        self._source = source
        self._env = env
        self._bls = bls
        self._bls_done = False
        self._items: list[MenuItem] = []
        self._count = 0
        self._nesting = 0
        self._continues: list[str] = []
        self._device = ""
        self._machine = Interpreter(parse(data), {**_PRESET, "prefix": PREFIX}, self._exists)

    def _exists(self, path: str) -> bool | None:
        return self._env is not None if path == f"{PREFIX}/grubenv" else None

    def menu(self) -> Menu:
        self._machine.run(0, len(self._machine.statements), self._command)
        variables = self._machine.variables
        default = variables.get("default", "0")
        if default == "saved":
            default = (self._env or {}).get("saved_entry", "0")
        return Menu(
            source=self._source,
            items=tuple(self._items),
            default=default or "0",
            uncertain="default" in self._machine.uncertain,
            continues=tuple(self._continues),
            device=self._device,
        )

    def _command(self, statement: Statement, texts: list[str], at: int) -> int:
        match texts[0]:
            case "load_env":
                for name, value in (self._env or {}).items():
                    self._machine.variables.setdefault(name, value)
                    if name in ("saved_entry", "next_entry", "kernelopts", "boot_success", "tuned_params"):
                        self._machine.variables[name] = value
            case "search":
                self._device = _searched(texts) or self._device
            case "menuentry" | "submenu" if statement.opens:
                end = self._machine.block_end(at)
                self._add(statement, texts[:-1], at, end)
                return end + 1
            case "blscfg":
                self._blscfg()
            case "configfile" | "source" | "." if len(texts) > 1:
                self._continues.append(texts[1])
        return at

    def _blscfg(self) -> None:
        if not self._bls_done:
            self._bls_done = True
            entries = self._bls(self._machine.variables)
            self._items += [MenuItem(title=entry.title, id=entry.id, entry=entry) for entry in entries]

    def _add(self, statement: Statement, texts: list[str], start: int, stop: int) -> None:
        self._count += 1
        if self._count > MAX_MENU:
            raise BudgetError(f"{self._source}: more than {MAX_MENU} entries", offset=statement.line)
        title, identity = _names(texts)
        if texts[0] == "submenu":
            above, self._items = self._items, []
            self._nesting += 1
            self._machine.run(start, stop, self._command, self._nesting)
            self._nesting -= 1
            above.append(MenuItem(title=title, id=identity, entry=None, children=tuple(self._items)))
            self._items = above
            return
        entry = self._entry(statement, title, identity, start, stop)
        self._items.append(MenuItem(title=title, id=identity, entry=entry))

    def _entry(self, statement: Statement, title: str, identity: str, start: int, stop: int) -> BootEntry:
        kernel, device = "", self._device
        args: tuple[str, ...] = ()
        initrds: list[str] = []
        inner: list[list[str]] = []
        variables = dict(self._machine.variables)
        body = Interpreter(self._machine.statements, variables, self._exists)

        def collect(_: Statement, texts: list[str], at: int) -> int:
            inner.append(texts)
            return at

        body.run(start, stop, collect)
        for texts in inner:
            if texts[0] in _LINUX and len(texts) > 1 and not (kernel and texts[0].startswith("module")):
                kernel, args = texts[1], tuple(word for text in texts[2:] for word in _split(text))
            elif texts[0] in _INITRD:
                initrds += [word for text in texts[1:] for word in text.split()]
            elif texts[0] == "search":
                device = _searched(texts) or device
        return BootEntry(
            title=title,
            kernel=kernel,
            initrds=tuple(initrds),
            args=args,
            id=identity,
            device=device,
            source=self._source,
            line=statement.line,
        )


def _split(text: str) -> list[str]:
    """A variable may hold several arguments; a quoted one stays whole only where it has no `=` words behind a space."""
    return text.split() if " " in text and text.count("=") > 1 else [text] if text else []


def _names(texts: list[str]) -> tuple[str, str]:
    """Title and id of `menuentry TITLE --class X --id ID` and Debian's `$menuentry_id_option ID`."""
    title, identity, at = "", "", 1
    while at < len(texts):
        text = texts[at]
        if text.startswith("--") and "=" in text:
            identity = text.partition("=")[2] if text.startswith("--id=") else identity
        elif text in ("--class", "--users", "--hotkey", "--source", "--id") and at + 1 < len(texts):
            at += 1
            identity = texts[at] if text == "--id" else identity
        elif not text.startswith("--") and not title:
            title = text
        at += 1
    return title, identity


def _searched(texts: list[str]) -> str:
    """What `search --fs-uuid --set=root UUID` looks for; empty for a search by file."""
    if not any(text in ("--fs-uuid", "-u", "--label", "-l") for text in texts):
        return ""
    plain = [text for text in texts[1:] if not text.startswith("-")]
    return plain[-1] if plain else ""


def _no_snippets(_: Mapping[str, str]) -> tuple[BootEntry, ...]:
    return ()


def parse_grub(data: bytes, source: str, env: Mapping[str, str] | None, bls: Snippets = _no_snippets) -> Menu:
    """The menu of a grub.cfg.

    `env`: the variables of grubenv beside it, None where there is none. `bls`: what gives the entries of the boot
    loader specification, the first of the menu first, once the variables are known. Raises DamagedError for a script
    that makes no sense, BudgetError.
    """
    return _Reader(data, source, env, bls).menu()


def parse_legacy(data: bytes, source: str, saved: str | None = None) -> Menu:
    """The menu of GRUB 0.97 (menu.lst, grub.conf). `saved`: the first line of the file `default` beside it."""
    default, entries = "0", []
    current: dict[str, tuple[str, ...]] = {}
    heads: list[tuple[str, int, dict[str, tuple[str, ...]]]] = []
    for number, line in significant(data):
        head = line.replace(b"=", b" ", 1) if line.startswith((b"default=", b"title=")) else line
        word, _, rest = head.replace(b"\t", b" ").partition(b" ")
        name = decode(word).lower()
        if name == "default":
            default = decode(rest.strip())
        elif name == "title":
            current = {}
            heads.append((decode(rest.strip()), number, current))
            if len(heads) > MAX_MENU:
                raise BudgetError(f"{source}: more than {MAX_MENU} entries", offset=number)
        elif heads and name in ("kernel", "initrd"):
            current[name] = kernel_args(rest)
    if default == "saved":
        default = saved or "0"
    for title, number, found in heads:
        kernel = [text for text in found.get("kernel", ()) if not text.startswith("--")]
        entries.append(
            BootEntry(
                title=title,
                kernel=kernel[0] if kernel else "",
                initrds=found.get("initrd", ())[:1],
                args=tuple(kernel[1:]),
                source=source,
                line=number,
            )
        )
    return Menu(
        source=source,
        items=tuple(MenuItem(title=entry.title, id="", entry=entry) for entry in entries),
        default=default,
    )
