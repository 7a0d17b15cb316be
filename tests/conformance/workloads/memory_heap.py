"""The heap behind the program break."""

import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.sbrk.restype = ctypes.c_void_p
LIBC.sbrk.argtypes = [ctypes.c_ssize_t]


def setup():
    base = LIBC.sbrk(4 << 20)
    ctypes.memset(base, 0x5A, 4 << 20)
    return base


def check(state):
    content = ctypes.string_at(state, 4 << 20)
    return {"content": sorted(set(content)), "size": len(content), "grows": LIBC.sbrk(0) > state}
