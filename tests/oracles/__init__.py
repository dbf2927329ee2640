"""Independent readers of disk images, for tests only: what qemu-img, libyal, dissect and 7-Zip see.

`read_guest(path, format, oracle)` gives the digest of the guest disk. No oracle is shown a path beside other
files: it gets an empty directory with the image (and its pieces) in it. The Python readers run in a child
process with a time limit, because some versions of them do not end. What an oracle is known to get wrong, and
why, stands in `known.py`; `docs/oracles.md` says who is right.
"""

from oracles.digest import BLOCK, GuestDigest, digest_blocks, digest_file
from oracles.known import Effect, Known, Traits, known_error
from oracles.readers import ORACLES, OracleError, OracleTimeoutError, missing, read_guest

__all__ = [
    "BLOCK",
    "ORACLES",
    "Effect",
    "GuestDigest",
    "Known",
    "OracleError",
    "OracleTimeoutError",
    "Traits",
    "digest_blocks",
    "digest_file",
    "known_error",
    "missing",
    "read_guest",
]
