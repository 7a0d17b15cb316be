"""Descriptors on their way through Unix sockets: of pipes with content, and of a file."""

import os
import socket

KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)


def setup():
    pairs = []
    for kind in KINDS:
        pair = socket.socketpair(socket.AF_UNIX, kind)
        read, write = os.pipe()
        os.write(write, f"kind {kind}".encode())
        os.close(write)
        file = os.open(f"/tmp/sent-{kind}", os.O_RDWR | os.O_CREAT, 0o600)
        os.write(file, b"0123456789")
        os.lseek(file, 4, os.SEEK_SET)
        send(pair, [read, file])
        pairs.append(pair)
    return pairs


def send(pair, fds):
    socket.send_fds(pair[0], [b"with descriptors"], fds)
    for fd in fds:
        os.close(fd)


def check(state):
    found = []
    for pair in state:
        message, fds, _, _ = socket.recv_fds(pair[1], 100, 5)
        read, file = fds
        content = os.read(read, 100)
        found.append(
            [
                message.decode(),
                content.decode(),
                os.pread(file, 10, 0).decode(),
                os.lseek(file, 0, os.SEEK_CUR),
            ]
        )
        # As it was, for the next time.
        os.close(read)
        read, write = os.pipe()
        os.write(write, content)
        os.close(write)
        send(pair, [read, file])
    return {"found": found}
