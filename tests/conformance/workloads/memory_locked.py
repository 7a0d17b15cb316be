"""Memory that is locked, as far as the limit allows."""

import ctypes
import mmap

LIBC = ctypes.CDLL(None, use_errno=True)


def setup():
    memory = mmap.mmap(-1, 1 << 14, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[0] = 1
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if LIBC.mlock(ctypes.c_void_p(base), ctypes.c_size_t(1 << 14)):
        raise OSError(ctypes.get_errno(), "mlock")
    return memory


def check(state):
    with open("/proc/self/status") as file:
        locked = next(line for line in file if line.startswith("VmLck"))
    return {"locked": locked.split()[1], "content": state[0]}
