"""Private anonymous memory: patterns, untouched pages, several protections."""

import hashlib
import mmap


def setup():
    filled = mmap.mmap(-1, 8 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(filled), 4096):
        filled[at : at + 8] = at.to_bytes(8, "little")
    sparse = mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    sparse[63 << 20] = 7
    return filled, sparse


def check(state):
    filled, sparse = state
    return {
        "filled": hashlib.sha256(filled[:]).hexdigest(),
        "sparse": sum(sparse[at] for at in range(0, len(sparse), 1 << 20)),
    }
