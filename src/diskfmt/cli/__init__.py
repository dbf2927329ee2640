"""The command line: arguments in, a result on stdout, messages on stderr, and an exit code.

    main ─► dispatch ─► arguments ─► commands.<name>.run ─► api ─► output ─► Console
               │ any exception ─► failure ─► one line on stderr, and an object on stdout with --output json

Everything that costs time is imported by the command that needs it, so that `--version` and `-h` feel instant. Here
stands only what is needed before a signal may arrive.
"""

import gc
import os
import sys
from collections.abc import Sequence

from diskfmt.cli.signals import Interrupted, Interrupts


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (TM-1403); nothing but the code leaves this function.

    `argv` are the arguments without the program's name, those of the process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # numpy starts a thread per core for matrices that nobody multiplies here, and these threads spin.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(50_000)  # the default walks all modules again and again while they load
    try:
        with Interrupts() as interrupts:
            from diskfmt.cli.dispatch import dispatch

            return dispatch(words, interrupts)
    except (Interrupted, KeyboardInterrupt) as error:  # on the way in or out, where no command is at work
        if sys.stderr is not None:
            sys.stderr.write("diskfmt: interrupted\n")
        return 128 + (error.number if isinstance(error, Interrupted) else 2)
