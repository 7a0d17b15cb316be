"""One question to the cluster's DNS, to see whether it answers."""

from __future__ import annotations

import secrets
import socket
import struct

from devcluster import addresses


def resolve(name: str, *, timeout_seconds: float = 1.0) -> list[str]:
    """The IPv4 addresses of a name, empty if there is none or no answer comes."""
    number = secrets.randbelow(1 << 16)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.strip(".").split("."))
    question = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(timeout_seconds)
        try:
            channel.sendto(question, (addresses.HOST, addresses.DNS_PORT))
            answer = channel.recv(4096)
        except OSError:
            return []
    return parse(answer, number, len(question))


def parse(answer: bytes, number: int, offset: int) -> list[str]:
    """The A records of an answer whose first record lies at `offset`."""
    if len(answer) < offset or struct.unpack_from(">H", answer)[0] != number:
        return []
    found = []
    for _ in range(struct.unpack_from(">H", answer, 6)[0]):
        if answer[offset] & 0xC0:
            offset += 2
        else:
            while answer[offset]:
                offset += answer[offset] + 1
            offset += 1
        kind, _, _, length = struct.unpack_from(">HHIH", answer, offset)
        offset += 10
        if kind == 1:
            found.append(socket.inet_ntoa(answer[offset : offset + length]))
        offset += length
    return found
