"""Shut this process in: it can compute, and use the descriptors that it has, and nothing else.

Resource limits, no new privileges, Landlock without any allowed path, and a seccomp filter that denies opening,
connecting, starting, signalling and changing anything. By ctypes, without a package; in force until the process ends.
Whatever has to be imported must be imported before.

Sources: landlock(7), seccomp(2), setrlimit(2).
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38

_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_RESTRICT_SELF: Final = 446
# Rights on files by ABI: 13 at first, then REFER, TRUNCATE, IOCTL_DEV.
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_RIGHTS: Final = 0x3  # TCP: bind, connect; since ABI 4
_SCOPES: Final = 0x3  # abstract sockets, signals; since ABI 6

_CLONE_THREAD: Final = 0x10000
_SECCOMP_SET_MODE_FILTER: Final = 1
_ALL_THREADS: Final = 1
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


@dataclass(frozen=True, slots=True)
class _Machine:
    """What the filter needs of a machine: its audit number, and the numbers of system calls."""

    audit: int
    seccomp: int
    clone: int
    signals: tuple[int, ...]  # those whose first argument is a process
    denied: tuple[int, ...]


# Those with one number on all machines: pidfd_send_signal, io_uring_*, open_tree … fspick, pidfd_open, openat2,
# pidfd_getfd, mount_setattr, fchmodat2.
_CLONE3: Final = 435
_COMMON: Final = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 437, 438, 442, 452)

_MACHINES: Final = {
    "x86_64": _Machine(
        audit=0xC000003E,
        seccomp=317,
        clone=56,
        signals=(62, 129, 200, 234, 297),  # kill, rt_sigqueueinfo, tkill, tgkill, rt_tgsigqueueinfo
        denied=(
            *(2, 85, 257, 303, 304),  # open, creat, openat, name_to_handle_at, open_by_handle_at
            *(41, 42, 43, 44, 46, 49, 50, 53, 288, 307),  # socket … socketpair, accept4, sendmmsg
            *(57, 58, 59, 322),  # fork, vfork, execve, execveat
            *(76, 77, 285),  # truncate, ftruncate, fallocate
            *(82, 83, 84, 86, 87, 88, 133, 258, 259, 263, 264, 265, 266, 316),  # rename … renameat2
            *(90, 91, 92, 93, 94, 132, 235, 260, 261, 268, 280),  # chmod, chown, utime and their like
            *(188, 189, 190, 197, 198, 199),  # setxattr, removexattr
            *(101, 310, 311),  # ptrace, process_vm_*
            *(155, 161, 165, 166, 167, 168, 169, 272, 308),  # pivot_root, chroot, mount … unshare, setns
            *(172, 173, 175, 176, 246, 313, 320),  # iopl, ioperm, modules, kexec
            *(248, 249, 250, 298, 321, 323),  # keys, perf_event_open, bpf, userfaultfd
            *_COMMON,
        ),
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        seccomp=277,
        clone=220,
        signals=(129, 130, 131, 138, 240),
        denied=(
            *(56, 264, 265),
            *(198, 199, 200, 201, 202, 203, 206, 211, 242, 269),
            *(221, 281),
            *(45, 46, 47),
            *(33, 34, 35, 36, 37, 38, 276),
            *(52, 53, 54, 55, 88),
            *(5, 6, 7, 14, 15, 16),
            *(117, 270, 271),
            *(39, 40, 41, 51, 97, 142, 224, 225, 268),
            *(104, 105, 106, 273, 294),
            *(217, 218, 219, 241, 280, 282),
            *_COMMON,
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the process may take from here on. Memory in bytes above what it has, times in seconds."""

    memory: int = 1 << 30
    cpu: int = 60
    wall: float = 120.0
    answer: int = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is in force: `on`, `abi N` for Landlock, or `off: why`."""

    limits: str
    no_new_privs: str
    landlock: str
    seccomp: str

    @property
    def complete(self) -> bool:
        """Whether everything is."""
        return not any(value.startswith("off") for value in asdict(self).values())


OFF: Final = State(limits="off", no_new_privs="off", landlock="off", seccomp="off")


def confine(limits: Limits) -> State:
    """Shut this process in as far as this system can, and tell how far that is. There is no way back."""
    libc = ctypes.CDLL(None, use_errno=True)
    return State(
        limits=_attempt(lambda: _set_limits(limits)),
        no_new_privs=_attempt(lambda: _no_new_privileges(libc)),
        landlock=_attempt(lambda: _landlock(libc)),
        seccomp=_attempt(lambda: _seccomp(libc)),
    )


def die_with_parent() -> None:
    """Ask for SIGKILL when the parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _attempt(step: Callable[[], str]) -> str:
    try:
        return step()
    except (OSError, AttributeError, ValueError) as error:
        return f"off: {error}"


def _set_limits(limits: Limits) -> str:
    with open("/proc/self/statm", "rb") as file:
        used = int(file.read(64).split()[0]) * resource.getpagesize()
    for kind, wanted in (
        (resource.RLIMIT_AS, used + limits.memory),
        (resource.RLIMIT_CPU, limits.cpu),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))
    return "on"


def _no_new_privileges(libc: ctypes.CDLL) -> str:
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise _failed()
    return "on"


def _landlock(libc: ctypes.CDLL) -> str:
    abi = libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        raise _failed()
    rights = (1 << _FILE_RIGHTS.get(abi, 16)) - 1
    attributes = struct.pack("=Q", rights)
    if abi >= 4:
        attributes += struct.pack("=Q", _NETWORK_RIGHTS)
    if abi >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    rules = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        raise _failed()
    try:
        if libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0):
            raise _failed()
    finally:
        os.close(rules)
    return f"abi {abi}"


def _seccomp(libc: ctypes.CDLL) -> str:
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(f"no filter for {platform.machine()}")
    code = filter_program(machine, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    if libc.syscall(machine.seccomp, _SECCOMP_SET_MODE_FILTER, _ALL_THREADS, program):
        raise _failed()
    return "on"


def filter_program(machine: _Machine, pid: int) -> bytes:
    """The filter as instructions of 8 bytes: (operation, steps if true, steps if false, operand)."""
    deny = _ERRNO | errno.EPERM
    code = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, 0x40000000),  # x32 has other numbers for the same calls
        (_RETURN, 0, 0, deny),
        (_EQUAL, 0, 1, _CLONE3),  # its flags are out of reach; without it threads are started by clone
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_EQUAL, 0, 4, machine.clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, deny),
    ]
    for number in machine.signals:
        code += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_EQUAL, 0, 1, pid),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, deny),
        ]
    for number in machine.denied:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, deny)]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
