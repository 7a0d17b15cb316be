"""Soft limits raised to the hard ones, as servers do it, and a thousand descriptors in use."""

import os
import resource

NAMES = ("NOFILE", "NPROC", "MEMLOCK", "SIGPENDING", "MSGQUEUE", "AS", "DATA", "FSIZE")


def setup():
    for name in NAMES:
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        resource.setrlimit(number, (hard, hard))
    count = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    file = os.open("/etc/passwd", os.O_RDONLY)
    return [os.dup(file) for _ in range(count)]


def check(state):
    limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in NAMES}
    return {"limits": limits, "readable": len([1 for one in state if os.pread(one, 1, 0)])}
