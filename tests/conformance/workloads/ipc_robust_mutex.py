"""A robust mutex in shared memory, held by a child: its death is told to whoever locks next."""

import ctypes
import errno
import mmap
import os
import signal

LIBC = ctypes.CDLL(None)
SHARED, ROBUST = 1, 1  # PTHREAD_PROCESS_SHARED, PTHREAD_MUTEX_ROBUST


def setup():
    memory = mmap.mmap(-1, 4096)
    mutex = ctypes.byref(ctypes.c_char.from_buffer(memory))
    attributes = ctypes.create_string_buffer(64)
    assert LIBC.pthread_mutexattr_init(attributes) == 0
    assert LIBC.pthread_mutexattr_setpshared(attributes, SHARED) == 0
    assert LIBC.pthread_mutexattr_setrobust(attributes, ROBUST) == 0
    assert LIBC.pthread_mutex_init(mutex, attributes) == 0
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, bytes([LIBC.pthread_mutex_lock(mutex)]))
        while True:
            signal.pause()
    assert os.read(read, 1) == b"\0"
    os.close(read)
    os.close(write)
    return {"memory": memory, "mutex": mutex, "child": child, "asked": 0}


def check(state):
    state["asked"] += 1
    found = {"held": LIBC.pthread_mutex_trylock(state["mutex"]) == errno.EBUSY}
    if state["asked"] == 2:
        os.kill(state["child"], signal.SIGKILL)
        os.waitpid(state["child"], 0)
        found["of the dead"] = LIBC.pthread_mutex_trylock(state["mutex"])
    return found


def compare(before, after):
    assert before == {"held": True}
    assert after == {"held": True, "of the dead": errno.EOWNERDEAD}
