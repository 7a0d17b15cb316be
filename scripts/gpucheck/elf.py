"""Which libraries a program needs, from its own headers: nothing of it is run.

Source: elf(5): program headers, the dynamic section.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRING_TABLE = 1, 5
_MACHINES = {62: "x86_64", 183: "aarch64"}


def needed(path: Path) -> list[str]:
    """Names of the libraries that a 64-bit program or library asks for; none of other files."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return []
    offset, size, count = struct.unpack_from("<Q14xHH", data, 32)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + size * n) for n in range(count)]
    loads = [(at, start, length) for kind, _, at, start, _, length in headers if kind == _LOAD]
    dynamic = next(
        ((at, length) for kind, _, at, _, _, length in headers if kind == _DYNAMIC), None
    )
    if dynamic is None:
        return []
    entries = [
        struct.unpack_from("<qQ", data, at) for at in range(dynamic[0], dynamic[0] + dynamic[1], 16)
    ]
    address = next((value for tag, value in entries if tag == _STRING_TABLE), 0)
    table = next((at + address - s for at, s, length in loads if s <= address < s + length), 0)
    names = [table + value for tag, value in entries if tag == _NEEDED]
    return [data[at : data.index(b"\0", at)].decode() for at in names]


def machine(path: Path) -> str:
    """What it is made for, as `uname -m` says it."""
    with path.open("rb") as file:
        header = file.read(20)
    return _MACHINES.get(int.from_bytes(header[18:20], "little"), "")


def closure(programs: Iterable[Path], folders: Sequence[Path]) -> dict[str, Path]:
    """All libraries that programs need, and those that these need: name -> file.

    Raises:
        FileNotFoundError: one is in none of the folders; its name is the file name.
    """
    found: dict[str, Path] = {}
    waiting = list(programs)
    while waiting:
        for name in needed(waiting.pop()):
            if name not in found:
                path = next((f / name for f in folders if (f / name).exists()), None)
                if path is None:
                    raise FileNotFoundError(2, "a library is missing", name)
                found[name] = path
                waiting.append(path)
    return found
