"""Signals that are blocked and pending, two of a queue with values."""

import ctypes
import os
import signal

LIBC = ctypes.CDLL(None, use_errno=True)


def setup():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGRTMIN + 2})
    os.kill(os.getpid(), signal.SIGUSR1)
    for value in (11, 22):
        LIBC.sigqueue(os.getpid(), signal.SIGRTMIN + 2, ctypes.c_void_p(value))


def check(state):
    return {
        "pending": sorted(int(number) for number in signal.sigpending()),
        "blocked": sorted(int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, set())),
    }
