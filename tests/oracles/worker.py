"""The child process that runs the Python readers: one request a line in, one answer a line out, both JSON.

It is started as a script and knows nothing of the tests. A reader that hangs is killed with the process.
"""

import importlib
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from oracles.digest import BLOCK, digest_blocks

_STEP = 16 * BLOCK
_MEMORY = 4 << 30


def _sequential(read: Callable[[int], bytes], size: int) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, size, _STEP):
        want = min(_STEP, size - offset)
        data = read(want)
        while len(data) < want:
            more = read(want - len(data))
            if not more:
                raise EOFError(f"the reader stops at {offset + len(data)} of {size}")
            data += more
        yield offset, data


def _libyal(path: str, format: str) -> tuple[int, Iterator[tuple[int, bytes]]]:
    module: Any = importlib.import_module({"qcow2": "pyqcow", "vhd": "pyvhdi", "vmdk": "pyvmdk"}[format])
    if format == "vmdk":
        image = module.handle()
        image.open(path)
        image.open_extent_data_files()
    else:
        image = module.file()
        image.open_file_object(open(path, "rb"))  # noqa: SIM115
    size = image.get_media_size()
    return size, _sequential(image.read_buffer, size)


def _dissect(path: str, format: str) -> tuple[int, Iterator[tuple[int, bytes]]]:
    from pathlib import Path

    module: Any = importlib.import_module(f"dissect.hypervisor.disk.{format}")
    if format == "qcow2":
        stream = module.QCow2(open(path, "rb")).open()  # noqa: SIM115
    elif format == "vhd":
        stream = module.VHD(open(path, "rb"))  # noqa: SIM115
    else:
        stream = module.VMDK(Path(path))
    if hasattr(stream, "open") and not hasattr(stream, "read"):
        stream = stream.open()
    return stream.size, _sequential(stream.read, stream.size)


def _answer(request: dict[str, str]) -> dict[str, object]:
    if request["oracle"] == "version":
        return {"version": importlib.import_module(request["path"]).get_version()}
    reader = {"libyal": _libyal, "dissect": _dissect}[request["oracle"]]
    size, chunks = reader(request["path"], request["format"])
    digest = digest_blocks(size, chunks)
    return {"size": digest.size, "nz64k": digest.nz64k}


def main() -> None:
    """Answer requests until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for line in sys.stdin:
        try:
            answer = _answer(json.loads(line))
        except Exception as error:  # whatever a foreign reader raises is its answer
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
