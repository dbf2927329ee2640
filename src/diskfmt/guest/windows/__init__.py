"""Windows as it lies on a disk: what its registry, boot store and files say about where it will boot.

`gather` makes one frozen `WindowsFacts` of a root and its hives.
"""

from diskfmt.guest.windows.facts import WindowsFacts, gather
from diskfmt.guest.windows.hives import Hives, open_hives

__all__ = ["Hives", "WindowsFacts", "gather", "open_hives"]
