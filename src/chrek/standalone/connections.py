"""Connections of a program that is to be restored where it was captured, on this machine's network.

A connection that ends in the usual way keeps its port for a minute (TIME_WAIT), and one that CRIU
had in TCP_REPAIR, which forgets SO_REUSEADDR, keeps everybody from listening there. One that is
reset keeps nothing. Source: tcp(7), socket(7), `tcp_repair` in the kernel's net/ipv4/tcp.c.
"""

from __future__ import annotations

import socket
import struct

from chrek import leftovers

_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: the end of the process resets the connection."""


def reset_at_end(root_pid: int) -> int:
    """Have the TCP connections of a tree that is about to be ended be reset, not closed.

    Returns:
        How many there are.
    """
    return leftovers.count_connections(root_pid, _reset_at_end)


def _reset_at_end(held: socket.socket) -> bool:
    if held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    return True
