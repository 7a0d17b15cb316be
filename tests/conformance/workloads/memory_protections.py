"""Guard pages, read-only pages, and code that was written and made executable."""

import ctypes
import mmap

PROT_EXEC_READ = mmap.PROT_READ | mmap.PROT_EXEC
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def setup():
    memory = mmap.mmap(-1, 3 << 12, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:6] = b"\xb8\x2a\x00\x00\x00\xc3"  # mov eax, 42; ret
    memory[1 << 13] = 9
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for at, protection in ((0, PROT_EXEC_READ), (1 << 12, 0), (1 << 13, mmap.PROT_READ)):
        if LIBC.mprotect(base + at, 1 << 12, protection):
            raise OSError(ctypes.get_errno(), "mprotect")
    return memory, base


def check(state):
    memory, base = state
    return {"answer": ctypes.CFUNCTYPE(ctypes.c_int)(base)(), "last": memory[1 << 13]}
