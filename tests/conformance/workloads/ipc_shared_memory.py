"""System V shared memory: attached by two processes, attached and removed, and attached by none."""

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p
LIBC.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
LIBC.shmdt.argtypes = [ctypes.c_void_p]
CREATE = 0o1000


def segment(key, size, text):
    number = LIBC.shmget(key, size, CREATE | 0o600)
    address = LIBC.shmat(number, None, 0)
    ctypes.memmove(address, text, len(text))
    return number, address


def setup():
    number, address = segment(4711, 1 << 16, b"attached")
    removed, gone = segment(0, 1 << 14, b"removed")
    LIBC.shmctl(removed, 0, None)
    alone, away = segment(4712, 1 << 12, b"alone")
    LIBC.shmdt(away)
    asked, told = os.pipe(), os.pipe()
    if os.fork() == 0:
        while os.read(asked[0], 1):
            ctypes.memmove(address + 100, b"child", 5)
            os.write(told[1], ctypes.string_at(gone, 7))
        os._exit(0)
    return number, address, alone, asked[1], told[0]


def check(state):
    number, address, alone, ask, told = state
    os.write(ask, b".")
    said = os.read(told, 10)
    other = LIBC.shmat(LIBC.shmget(4712, 0, 0), None, 0)
    content = ctypes.string_at(other, 5)
    LIBC.shmdt(other)
    return {
        "first": ctypes.string_at(address, 8).decode(),
        "removed": said.decode(),
        "child": ctypes.string_at(address + 100, 5).decode(),
        "alone": content.decode(),
        "ids": [number == LIBC.shmget(4711, 0, 0), alone == LIBC.shmget(4712, 0, 0)],
        "numbers": [number, alone],
    }
