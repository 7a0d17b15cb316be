"""A signalfd with a signal in it."""

import ctypes
import os
import signal
import struct

LIBC = ctypes.CDLL(None, use_errno=True)


def setup():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    mask = struct.pack("Q", 1 << signal.SIGUSR1 - 1) + b"\0" * 120
    fd = LIBC.signalfd(-1, mask, os.O_NONBLOCK)
    os.kill(os.getpid(), signal.SIGUSR1)
    return fd


def check(state):
    number = struct.unpack_from("I", os.read(state, 128))[0]
    os.kill(os.getpid(), signal.SIGUSR1)
    return {"number": number}
