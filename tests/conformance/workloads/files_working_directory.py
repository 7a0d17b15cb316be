"""A working directory that was deleted."""

import os


def setup():
    os.makedirs("/tmp/gone")
    os.chdir("/tmp/gone")
    os.rmdir("/tmp/gone")


def check(state):
    return {"link": os.readlink("/proc/self/cwd"), "there": os.path.exists("/tmp/gone")}
