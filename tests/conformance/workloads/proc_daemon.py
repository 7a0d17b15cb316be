"""A child that made itself a daemon: its parent is gone."""

import os
import time


def setup():
    read, write = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            os.write(write, b"%d" % os.getpid())
            beat = 0
            while True:
                time.sleep(0.02)
                beat += 1
                with open("/tmp/beat.new", "w") as file:
                    file.write(str(beat))
                os.rename("/tmp/beat.new", "/tmp/beat")
        os._exit(0)
    os.waitpid(first, 0)
    return int(os.read(read, 10))


def check(state):
    def beat():
        try:
            with open("/tmp/beat") as file:
                return int(file.read() or 0)
        except FileNotFoundError:
            return 0

    with open(f"/proc/{state}/stat") as file:
        parent = file.read().rpartition(")")[2].split()[1]
    before = beat()
    deadline = time.monotonic() + 10
    while beat() == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return {"pid": state, "adopted": int(parent) != os.getpid(), "alive": beat() > before}
