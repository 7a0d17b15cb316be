"""Seccomp filters that differ from thread to thread, stacked on those of the container."""

import ctypes
import struct
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
LOAD, JUMP, RETURN = 0x20, 0x15, 0x06
GETPRIORITY = 140  # x86-64


def forbid(error):
    parts = (
        (LOAD, 0, 0, 0),
        (JUMP, 0, 1, GETPRIORITY),
        (RETURN, 0, 0, 0x0005_0000 | error),
        (RETURN, 0, 0, 0x7FFF_0000),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *part) for part in parts))
    header = struct.pack("HxxxxxxP", 4, ctypes.addressof(code))
    LIBC.prctl(38, 1, 0, 0, 0)
    if LIBC.prctl(22, 2, header, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def setup():
    asked, found, made = {}, {}, []

    def run(error):
        forbid(error)
        made.append(error)
        while True:
            asked[error].wait()
            asked[error].clear()
            ctypes.set_errno(0)
            LIBC.syscall(GETPRIORITY, 0, 0)
            found[error] = ctypes.get_errno()

    for error in (61, 62):
        asked[error] = threading.Event()
        threading.Thread(target=run, args=(error,), daemon=True).start()
    while len(made) < 2:
        pass
    return asked, found


def check(state):
    asked, found = state
    found.clear()
    for event in asked.values():
        event.set()
    while len(found) < len(asked):
        threading.Event().wait(0.01)
    ctypes.set_errno(0)
    LIBC.syscall(GETPRIORITY, 0, 0)
    return {"threads": {str(key): value for key, value in found.items()}, "own": ctypes.get_errno()}


def compare(before, after):
    assert before == after == {"threads": {"61": 61, "62": 62}, "own": 0}
