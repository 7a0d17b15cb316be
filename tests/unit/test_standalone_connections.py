from __future__ import annotations

import os
import socket

import pytest

from chrek.standalone import connections


def test_connections_are_reset_and_their_ports_free() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ready, told = os.pipe()
    address = listener.getsockname()
    child = os.fork()
    if child == 0:
        # Other tests of this process may have connections of their own.
        os.closerange(3, told)
        os.closerange(told + 1, 4096)
        client = socket.create_connection(address)
        os.write(told, b"x")
        client.recv(1)
        os._exit(0)
    held, _ = listener.accept()
    os.read(ready, 1)
    assert connections.reset_at_end(child) == 1, "the listening one is none"
    os.kill(child, 9)
    os.waitpid(child, 0)
    with pytest.raises(ConnectionResetError):
        held.recv(1)
    held.close()
    listener.close()
    os.close(ready)
    os.close(told)


def test_a_tree_that_is_gone() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert connections.reset_at_end(child) == 0
