"""`python -m diskfmt`: the same as the `diskfmt` command."""

import sys

from diskfmt.cli import main

if __name__ == "__main__":
    sys.exit(main())
