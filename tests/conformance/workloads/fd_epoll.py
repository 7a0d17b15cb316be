"""An epoll descriptor with members, one of them ready, one edge-triggered."""

import os
import select


def setup():
    ready, quiet = os.pipe(), os.pipe()
    loop = select.epoll()
    loop.register(ready[0], select.EPOLLIN)
    loop.register(quiet[0], select.EPOLLIN | select.EPOLLET)
    os.write(ready[1], b"x")
    return loop, ready, quiet


def check(state):
    loop, ready, quiet = state
    first = loop.poll(5)
    os.write(quiet[1], b"y")
    both = sorted(fd for fd, _ in loop.poll(5))
    os.read(quiet[0], 1)
    return {"first": [fd == ready[0] for fd, _ in first], "both": len(both)}
