"""What a command gets besides its arguments."""

from dataclasses import dataclass

from diskfmt.cli.console import Console
from diskfmt.cli.signals import Interrupts


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The streams and the signals of one run."""

    console: Console
    interrupts: Interrupts
