"""Unix connections of which one side has shut down or closed."""

import socket


def setup():
    shut, other = socket.socketpair()
    shut.sendall(b"tail")
    shut.shutdown(socket.SHUT_WR)
    alone, gone = socket.socketpair()
    gone.close()
    return shut, other, alone


def check(state):
    shut, other, alone = state
    said = other.recv(10, socket.MSG_PEEK)
    other.sendall(b"x")
    try:
        alone.sendall(b"x")
        result = "sent"
    except BrokenPipeError:
        result = "broken"
    return {
        "said": said.decode(),
        "back": shut.recv(1).decode(),
        "alone": result,
        "end": alone.recv(1).decode(),
    }
