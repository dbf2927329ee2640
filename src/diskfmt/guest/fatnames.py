"""Names and times in the directories of FAT (Microsoft, "FAT: General Overview of On-Disk Format", 1.03)."""

import calendar


class LongName:
    """Puts a long name together; its parts come last part first, before the entry that they belong to."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._next = 0
        self._sum = 0

    def add(self, raw: bytes) -> None:
        """Take an entry that holds a part."""
        number = raw[0] & 0x3F
        if raw[0] & 0x40:
            self._parts, self._next, self._sum = [], number, raw[13]
        if number != self._next or not 1 <= number <= 20 or raw[13] != self._sum:
            self._parts, self._next = [], 0
            return
        self._parts.insert(0, raw[1:11] + raw[14:26] + raw[28:32])
        self._next = number - 1

    def take(self, short: bytes) -> str:
        """The name, empty where there is none or it belongs to another entry."""
        parts, left, wanted = self._parts, self._next, self._sum
        self._parts, self._next = [], 0
        total = 0
        for byte in short:
            total = ((total >> 1) | (total << 7 & 0x80)) + byte & 0xFF
        if not parts or left or total != wanted:
            return ""
        return b"".join(parts).decode("utf-16-le", "surrogatepass").split("\0")[0]


def decoded(name: bytes) -> str:
    """A short name, or a part of one, as text."""
    if name[:1] == b"\x05":  # 0xe5 itself marks an entry as deleted
        name = b"\xe5" + name[1:]
    return name.decode("cp437").rstrip(" ")


def short_name(name: bytes, case: int) -> str:
    """A name of 8 and 3 characters with its point; `case`: which parts Windows NT shows in lower case."""
    base, extension = decoded(name[:8]), decoded(name[8:])
    base = base.lower() if case & 0x08 else base
    extension = extension.lower() if case & 0x10 else extension
    return f"{base}.{extension}" if extension else base


def seconds(date: int, time: int) -> int:
    """Seconds since 1970, 0 where there is no date."""
    if not date & 0x1FF:
        return 0
    day = (1980 + (date >> 9), date >> 5 & 15, date & 31)
    return calendar.timegm((*day, time >> 11, time >> 5 & 63, (time & 31) * 2)) if 1 <= day[1] <= 12 else 0
