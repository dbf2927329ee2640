"""Who can log in, and what the guest carries with it that every copy would share.

Sources: passwd(5), shadow(5), sshd_config(5), machine-id(5), selinux_config(5), sudoers(5), hwclock(8) for adjtime.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import Entry
from diskfmt.guest.linux.root import Root, content, first_existing, is_file, sorted_names
from diskfmt.guest.linux.text import decode, lines, significant, words

IMMUTABLE: Final = 0x10
NO_PASSWORD: Final = "none"  # noqa: S105 - a word, not a password
_SSHD: Final = ("/usr/sbin/sshd", "/sbin/sshd", "/usr/bin/sshd", "/usr/sbin/dropbear", "/usr/bin/dropbear")
_MAX_HOMES: Final = 1000
_NO_LOGIN: Final = frozenset({"nologin", "false", "sync", "shutdown", "halt", "true", "git-shell", "rbash-nologin"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A line of passwd with its line of shadow.

    `password`: `hash`, `none` (anyone may enter), `locked`, or `unknown` where shadow has no such line.
    """

    name: str
    uid: int
    home: str
    shell: str
    password: str

    @property
    def can_log_in(self) -> bool:
        """Whether its shell is one."""
        return posixpath.basename(self.shell) not in _NO_LOGIN


def _password(field: str) -> str:
    if not field:
        return NO_PASSWORD
    if field[0] in "!*" or field in ("x", "LK", "NP"):
        return "locked"
    return "hash"


def parse_accounts(passwd: bytes, shadow: bytes) -> tuple[Account, ...]:
    """The accounts, in order."""
    hashes: dict[str, str] = {}
    for _, line in lines(shadow):
        fields = decode(line).split(":")
        if len(fields) >= 2:
            hashes.setdefault(fields[0], fields[1])
    found = []
    for _, line in lines(passwd):
        fields = decode(line).split(":")
        if len(fields) < 7 or not fields[2].isascii() or not fields[2].isdigit():
            continue
        shadowed = fields[1] in ("x", "*", "!", "!!", "##" + fields[0])
        field = hashes.get(fields[0]) if shadowed else fields[1]
        found.append(
            Account(
                name=fields[0],
                uid=int(fields[2][:10]),
                home=fields[5],
                shell=fields[6].strip() or "/bin/sh",
                password="unknown" if field is None else _password(field),
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class SshServer:
    """The server's `program` (None: there is none), and sshd_config with its pieces.

    `settings`: keyword in lower case → (value, where), the first one counts; Match blocks are left out.
    """

    program: str | None
    settings: Mapping[str, tuple[str, str]]

    def get(self, name: str) -> str | None:
        """A setting's value, None for the default."""
        found = self.settings.get(name.lower())
        return found[0] if found else None


def parse_sshd(files: list[tuple[str, bytes]]) -> dict[str, tuple[str, str]]:
    """The settings of configuration files (path, content) in the order in which sshd reads them."""
    found: dict[str, tuple[str, str]] = {}
    for path, data in files:
        for number, line in significant(data):
            parts = [decode(word) for word in words(line.replace(b"=", b" ", 1))]
            if not parts:
                continue
            if parts[0].lower() == "match":
                break
            if len(parts) > 1:
                found.setdefault(parts[0].lower(), (parts[1], f"{path}:{number}"))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """Log-ins and identities. Paths are where something was found.

    `shadow`: the file's inode, None where it is missing. `keys`: authorized_keys files that are not empty, account →
    path.
    `history`: shell histories that are not empty, path → bytes. `machine_id`: its text, None where there is no file.
    `selinux`: `enforcing`, `permissive`, `disabled`, or empty. `relabel`: /.autorelabel is there. `target_password`:
    where sudoers asks for the target's password. `local_clock`: the hardware clock runs on local time.
    """

    accounts: tuple[Account, ...]
    shadow: Entry | None
    host_keys: tuple[str, ...]
    keys: Mapping[str, str]
    history: Mapping[str, int]
    machine_id: str | None
    selinux: str
    relabel: bool
    sshd: SshServer
    target_password: str
    local_clock: bool

    @property
    def passwordless(self) -> tuple[Account, ...]:
        """Accounts that anyone may enter without a password."""
        return tuple(account for account in self.accounts if account.password == NO_PASSWORD and account.can_log_in)


def _homes(root: Root, accounts: tuple[Account, ...]) -> dict[str, str]:
    """Account → home of those that may have one of their own, at most _MAX_HOMES."""
    found = {account.name: account.home for account in accounts if account.home.startswith("/") and account.can_log_in}
    found.setdefault("root", "/root")
    for name in sorted_names(root, "/home"):
        if f"/home/{name}" not in found.values():
            found.setdefault(name, f"/home/{name}")
    return dict(list(found.items())[:_MAX_HOMES])


def _size(root: Root, path: str) -> int:
    entry = root.stat(path)
    return entry.size if entry is not None and is_file(root, path) else 0


def _sshd(root: Root) -> SshServer:
    """The settings. Pieces come first where the first line includes them, as all distributions do that have them."""
    main = "/etc/ssh/sshd_config" if is_file(root, "/etc/ssh/sshd_config") else "/usr/etc/ssh/sshd_config"
    data = content(root, main) or b""
    found = []
    if b"sshd_config.d" in data:
        directory = "/etc/ssh/sshd_config.d"
        paths = [f"{directory}/{name}" for name in sorted_names(root, directory, ".conf")]
        found = [(path, content(root, path) or b"") for path in paths]
    return SshServer(program=first_existing(root, *_SSHD), settings=parse_sshd([*found, (main, data)]))


def _selinux(root: Root) -> str:
    data = content(root, "/etc/selinux/config", 64 << 10)
    if data is None:
        return ""
    said = ""
    for _, line in significant(data):
        key, equals, value = decode(line).partition("=")
        if equals and key.strip().upper() == "SELINUX":
            said = value.strip().strip("\"'").lower()
    return said or "enforcing"


def _target_password(root: Root) -> str:
    paths = ["/etc/sudoers", *(f"/etc/sudoers.d/{name}" for name in sorted_names(root, "/etc/sudoers.d"))]
    for path in paths:
        for number, line in significant(content(root, path) or b""):
            said = decode(line).replace(",", " ").split()
            if said and said[0] == "Defaults" and ("targetpw" in said or "rootpw" in said):
                return f"{path}:{number}"
    return ""


def examine(root: Root) -> Security:
    """Log-ins and identities. Raises GuestError."""
    passwd, shadow = content(root, "/etc/passwd"), content(root, "/etc/shadow")
    accounts = parse_accounts(passwd or b"", shadow or b"")
    homes = _homes(root, accounts)
    keys, history = {}, {}
    for account, home in homes.items():
        for name in ("authorized_keys", "authorized_keys2"):
            if _size(root, f"{home}/.ssh/{name}"):
                keys[account] = f"{home}/.ssh/{name}"
        for name in (
            ".bash_history",
            ".zsh_history",
            ".ash_history",
            ".sh_history",
            ".python_history",
            ".mysql_history",
        ):
            size = _size(root, f"{home}/{name}")
            if size:
                history[f"{home}/{name}"] = size
    machine = content(root, "/etc/machine-id", 4096)
    adjtime = [decode(line).strip() for _, line in lines(content(root, "/etc/adjtime", 4096) or b"")]
    return Security(
        accounts=accounts,
        shadow=root.stat("/etc/shadow"),
        host_keys=tuple(
            f"/etc/ssh/{name}"
            for name in sorted_names(root, "/etc/ssh")
            if name.startswith("ssh_host_") and name.endswith("_key")
        ),
        keys=keys,
        history=history,
        machine_id=None if machine is None else decode(machine).strip(),
        selinux=_selinux(root),
        relabel=root.exists("/.autorelabel"),
        sshd=_sshd(root),
        target_password=_target_password(root),
        local_clock=len(adjtime) > 2 and adjtime[2] == "LOCAL",
    )
