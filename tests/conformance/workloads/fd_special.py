"""Descriptors of /dev, /proc and /sys that programs keep open."""

import os

PATHS = (
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/proc/self/status",
    "/proc/meminfo",
    "/sys/kernel/mm/transparent_hugepage/enabled",
)


def setup():
    return [os.open(path, os.O_RDONLY) for path in PATHS if os.path.exists(path)]


def check(state):
    return {"read": [len(os.pread(fd, 16, 0)) for fd in state]}
