"""Write the C source of the module `diskfmt._native` from the engine's header.

    python cffi_build.py include/dfmt.h _native.c

The header is the only description of the interface: what stands between its two cffi marks is what Python
sees. The compiler checks it against the header itself, so a wrong declaration does not build.
"""

import re
import sys

from cffi import FFI

BEGIN = "/* cffi: begin */"
END = "/* cffi: end */"

# Strings and character constants do not occur in the marked part; comments never nest.
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def declarations(header: str) -> str:
    """The marked part of a header, without comments. Raises ValueError where a mark is not there once."""
    for mark in (BEGIN, END):
        if header.count(mark) != 1:
            raise ValueError(f"the header needs the line {mark!r} exactly once")
    marked = header.partition(BEGIN)[2].partition(END)[0]
    lines = (line.rstrip() for line in COMMENT.sub(" ", marked).splitlines())
    return "\n".join(line for line in lines if line)


def main(header_path: str, source_path: str) -> None:
    """Read the header, write the C source."""
    with open(header_path, encoding="utf-8") as file:
        header = file.read()
    ffi = FFI()
    ffi.cdef(declarations(header))
    ffi.set_source("diskfmt._native", '#include "dfmt.h"', py_limited_api=True)
    ffi.emit_c_code(source_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
