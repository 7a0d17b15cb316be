"""Sockets that CRIU cannot dump are known before it tries."""

import contextlib
import os
import socket

import pytest

from chrek import endpoints

INET, INET6 = socket.AF_INET, socket.AF_INET6
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture
def pidfd():
    fd = os.pidfd_open(os.getpid())
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    "kind",
    [
        (INET, STREAM),
        (INET6, STREAM),
        (INET, DATAGRAM),
        (INET6, DATAGRAM),
        (socket.AF_UNIX, STREAM),
        (socket.AF_NETLINK, socket.SOCK_RAW),
    ],
)
def test_usual_ones(pidfd, kind):
    with socket.socket(*kind) as made:
        assert endpoints.problem(pidfd, made.fileno()) is None
        assert made.fileno() >= 0, "only a copy was closed"


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ((INET, STREAM, 262), "multipath TCP"),
        ((INET, STREAM, 132), "protocol 132"),
        ((socket.AF_ALG, socket.SOCK_SEQPACKET, 0), "family AF_ALG"),
        ((socket.AF_VSOCK, STREAM, 0), "family AF_VSOCK"),
    ],
)
def test_unusual_ones(pidfd, kind, what, monkeypatch):
    try:
        made = socket.socket(*kind)
    except OSError:
        # This kernel has none: a plain one that says it is such a one.
        made = socket.socket(INET, STREAM)
        real = socket.socket

        class Odd(real):
            family = kind[0]
            type = kind[1]
            proto = kind[2]

        monkeypatch.setattr(endpoints.socket, "socket", Odd)
    with contextlib.closing(made):
        found = endpoints.problem(pidfd, made.fileno())
    assert found is not None
    assert what in found[0]


def test_link_local():
    class Held:
        def __init__(self, address, device=b""):
            self.address, self.device = address, device

        def getsockname(self):
            return self.address

        def getsockopt(self, *_):
            return self.device

    assert endpoints._is_link_local(Held(("fe80::1%eth0", 80, 0, 2)))
    assert not endpoints._is_link_local(Held(("fe80::1", 80, 0, 2), b"eth0\0"))
    assert not endpoints._is_link_local(Held(("fe80::1", 0, 0, 2)))
    assert not endpoints._is_link_local(Held(("fd00::1", 80, 0, 0)))


def test_a_descriptor_that_is_not_open(pidfd):
    with pytest.raises(OSError, match="Bad file"):
        endpoints.problem(pidfd, 10_000)
