"""An eventfd with a count, and one without that does not block."""

import os


def setup():
    return os.eventfd(5), os.eventfd(0, os.EFD_NONBLOCK)


def check(state):
    counter, empty = state
    value = os.eventfd_read(counter)
    os.eventfd_write(counter, value)
    try:
        os.eventfd_read(empty)
    except BlockingIOError:
        return {"value": value, "empty": True}
    return {"value": value, "empty": False}
