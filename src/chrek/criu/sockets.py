"""Internet sockets in a capture, made fit for another pod address.

A connection with both ends inside the tree survives. Every other one becomes a closed socket: the
process gets an error from it, which it knows how to handle, instead of a peer that never answers.
What was bound to the old pod's address is bound to the new pod's.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Mapping

from chrek.criu import images
from chrek.criu import messages_pb2 as pb

TCP_CLOSE = 7
TCP_LISTEN = 10

Address = tuple[int, tuple[int, ...], int]
"""Family, address words as CRIU keeps them (network order read as little-endian), port."""


def words(address: str) -> tuple[int, ...]:
    """An address the way CRIU keeps it: 32-bit words, one for IPv4, four for IPv6."""
    packed = ipaddress.ip_address(address).packed
    return struct.unpack(f"={len(packed) // 4}I", packed)


def rewrite(entries: Iterable[pb.FileEntry], addresses: Mapping[str, str]) -> tuple[int, int]:
    """Edit the socket entries of `files.img` in place.

    Args:
        entries: all entries of the file.
        addresses: old pod address -> new pod address, of the same family each.

    Returns:
        Number of connections closed and number of addresses rewritten.
    """
    moved = {words(old): words(new) for old, new in addresses.items()}
    sockets = [e.isk for e in entries if e.HasField("isk")]
    ends = {(_end(s, "src"), _end(s, "dst")) for s in sockets if _connected(s)}
    closed = rewritten = 0
    for isk in sockets:
        if _ended(isk):
            _forget_ends(isk)
            continue
        if _connected(isk) and (_end(isk, "dst"), _end(isk, "src")) not in ends:
            isk.state = TCP_CLOSE
            _forget_ends(isk)
            # Of a peer that had said its last word: what is lost must not look like an end of file.
            isk.ClearField("shutdown")
            closed += 1
            continue
        for side in (isk.src_addr, isk.dst_addr):
            new = _moved(tuple(side), moved)
            if new is not None:
                side[:] = new
                rewritten += 1
    return closed, rewritten


def settle(data: bytes, name: str) -> bytes:
    """A connection's `tcp-stream` image with nothing in it that CRIU would send.

    CRIU sends what was never sent before, as soon as it has restored the one end: the other is not
    there yet, and its kernel resets the connection. As something that was sent and not acknowledged
    it stays in the queue, and the kernel sends it again once both ends are there.
    Source: libsoccr_restore_queue in soccr/soccr.c of CRIU 4.2.
    """
    stream, queues = images.head(data, pb.TcpStreamEntry, name)
    if not stream.unsq_len:
        return data
    stream.unsq_len = 0
    return images.encode(name, [stream]) + queues


def _connected(isk: pb.InetSkEntry) -> bool:
    return (
        isk.proto == socket.IPPROTO_TCP
        and isk.state not in (TCP_LISTEN, TCP_CLOSE)
        and isk.dst_port != 0
    )


def _ended(isk: pb.InetSkEntry) -> bool:
    """Whether it was a connection once: the kernel still knows the peer of a closed socket.

    CRIU takes a socket with a peer for a connection and makes it established, whatever its state:
    open_inet_sk and gen_uncon_sk in criu/sk-inet.c of CRIU 4.2.
    """
    return isk.proto == socket.IPPROTO_TCP and isk.state == TCP_CLOSE and isk.dst_port != 0


def _forget_ends(isk: pb.InetSkEntry) -> None:
    isk.src_port = isk.dst_port = 0
    for side in (isk.src_addr, isk.dst_addr):
        side[:] = [0] * len(side)


def _end(isk: pb.InetSkEntry, side: str) -> Address:
    address = tuple(isk.src_addr if side == "src" else isk.dst_addr)
    port = isk.src_port if side == "src" else isk.dst_port
    plain = address[3:4] if _mapped(address) else address
    return (socket.AF_INET if len(plain) == 1 else socket.AF_INET6, plain, port)


_MAPPED_PREFIX = struct.unpack("=3I", b"\0" * 10 + b"\xff\xff")


def _mapped(address: tuple[int, ...]) -> bool:
    """Whether an IPv6 address is an IPv4 one in disguise (::ffff:a.b.c.d)."""
    return len(address) == 4 and address[:3] == _MAPPED_PREFIX


def _moved(
    address: tuple[int, ...], moved: Mapping[tuple[int, ...], tuple[int, ...]]
) -> tuple[int, ...] | None:
    if _mapped(address) and address[3:4] in moved:
        return (*address[:3], *moved[address[3:4]])
    return moved.get(address)
