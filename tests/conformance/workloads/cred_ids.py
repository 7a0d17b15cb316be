"""Supplementary groups, umask, session and process group of a child, and its files' owner."""

import os

OPTIONS = {"groups": (3001, 4002, 4003)}


def setup():
    asked, told = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.umask(0o007)
        while os.read(asked[0], 1):
            name = f"/tmp/owned-{os.getpid()}"
            made = os.open(name, os.O_CREAT | os.O_WRONLY, 0o777)
            about = os.fstat(made)
            os.close(made)
            os.unlink(name)
            answer = [*sorted(os.getgroups()), about.st_uid, about.st_gid, about.st_mode & 0o777]
            answer += [os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid()]
            os.write(told[1], (" ".join(str(int(one)) for one in answer) + "\n").encode())
        os._exit(0)
    return asked[1], os.fdopen(told[0])


def check(state):
    ask, told = state
    os.write(ask, b".")
    return {"child": told.readline().strip()}


def compare(before, after):
    assert before == after
    assert before["child"].endswith(" 504 1 1")
