"""Leases of files: one for reading, one for writing."""

import fcntl
import os

LEASES = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK}


def setup():
    made = {}
    for name, lease in LEASES.items():
        fd = os.open(f"/tmp/leased-{name}", os.O_RDONLY | os.O_CREAT, 0o600)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, lease)
        made[name] = fd
    return made


def check(state):
    return {name: fcntl.fcntl(fd, fcntl.F_GETLEASE) for name, fd in state.items()}


def compare(before, after):
    assert before == after == {name: int(lease) for name, lease in LEASES.items()}
