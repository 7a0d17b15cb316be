"""Connections inside of the tree survive, others are closed, addresses move to the new pod."""

import socket
import struct

import pytest

from chrek import errors
from chrek.criu import images, sockets
from chrek.criu import messages_pb2 as pb

ESTABLISHED, CLOSE, LISTEN = 1, 7, 10
OLD, NEW, OLD6, NEW6 = "10.1.0.5", "10.2.0.9", "fd00:1::5", "fd00:2::9"
MOVED = {OLD: NEW, OLD6: NEW6}


def mapped(address):
    return f"::ffff:{address}"


def sock(source, target=None, *, state=ESTABLISHED, proto=socket.IPPROTO_TCP):
    """An entry of files.img: (address, port) of both ends."""
    address, port = source
    other, other_port = target or ("::" if ":" in address else "0.0.0.0", 0)  # noqa: S104
    return pb.FileEntry(
        type=1,
        id=1,
        isk=pb.InetSkEntry(
            **{"id": 1, "ino": 1, "type": 1, "family": 10 if ":" in address else 2},
            proto=proto,
            state=state,
            src_port=port,
            dst_port=other_port,
            src_addr=sockets.words(address),
            dst_addr=sockets.words(other),
        ),
    )


def ends(entry):
    def text(words):
        kind = socket.AF_INET if len(words) == 1 else socket.AF_INET6
        return socket.inet_ntop(kind, struct.pack(f"={len(words)}I", *words))

    isk = entry.isk
    return (text(isk.src_addr), isk.src_port), (text(isk.dst_addr), isk.dst_port), isk.state


def test_addresses_stand_as_criu_keeps_them():
    assert sockets.words("127.0.0.1") == (0x0100007F,)
    assert sockets.words("::1") == (0, 0, 0, 0x01000000)


INSIDE = {
    "loopback": (("127.0.0.1", 8000), ("127.0.0.1", 40000)),
    "loopback 6": (("::1", 8000), ("::1", 40000)),
    "the pod's own address": ((OLD, 8000), (OLD, 40000)),
    "the pod's own address 6": ((OLD6, 8000), (OLD6, 40000)),
}


@pytest.mark.parametrize(("one", "other"), INSIDE.values(), ids=list(INSIDE))
def test_a_connection_inside_of_the_tree_survives(one, other):
    entries = [sock(one, other), sock(other, one)]
    closed, _ = sockets.rewrite(entries, MOVED)
    assert closed == 0
    move = {**MOVED}
    one, other = ((move.get(a, a), p) for a, p in (one, other))
    assert ends(entries[0]) == (one, other, ESTABLISHED)
    assert ends(entries[1]) == (other, one, ESTABLISHED)


def test_a_connection_between_both_families_survives():
    """A server on `::` sees an IPv4 client as ::ffff:a.b.c.d."""
    entries = [
        sock((mapped(OLD), 8000), (mapped(OLD), 40000)),
        sock((OLD, 40000), (OLD, 8000)),
    ]
    assert sockets.rewrite(entries, MOVED) == (0, 4)
    assert ends(entries[0]) == ((mapped(NEW), 8000), (mapped(NEW), 40000), ESTABLISHED)
    assert ends(entries[1]) == ((NEW, 40000), (NEW, 8000), ESTABLISHED)


OUTSIDE = {
    "a client": ((OLD, 8000), ("10.9.9.9", 50000)),
    "a server elsewhere": ((OLD, 50000), ("1.2.3.4", 443)),
    "6": ((OLD6, 8000), ("2001:db8::1", 50000)),
    "mapped": ((mapped(OLD), 8000), (mapped("10.9.9.9"), 50000)),
    "a sidecar": (("127.0.0.1", 50000), ("127.0.0.1", 15001)),
}


@pytest.mark.parametrize(("one", "other"), OUTSIDE.values(), ids=list(OUTSIDE))
@pytest.mark.parametrize("state", [ESTABLISHED, 2, 3, 4, 5, 8, 9, 11])
def test_any_other_connection_is_closed(one, other, state):
    entries = [sock(one, other, state=state)]
    assert sockets.rewrite(entries, MOVED) == (1, 0)
    nowhere = "::" if ":" in one[0] else "0.0.0.0"  # noqa: S104
    assert ends(entries[0]) == ((nowhere, 0), (nowhere, 0), CLOSE)


def test_the_same_ports_of_another_connection_do_not_count():
    entries = [
        sock((OLD, 8000), ("10.9.9.9", 40000)),
        sock((OLD, 40000), (OLD, 8000)),
        sock(("127.0.0.1", 40000), ("10.9.9.9", 8000)),
    ]
    assert sockets.rewrite(entries, {})[0] == 3


def test_a_socket_is_not_the_other_end_of_itself():
    """Nothing but a connection to its own port has equal ends, and that one does survive."""
    entries = [sock((OLD, 40000), (OLD, 40000))]
    assert sockets.rewrite(entries, {}) == (0, 0)


LISTENING = [
    ((OLD, 8000), (NEW, 8000)),
    ((OLD6, 8000), (NEW6, 8000)),
    ((mapped(OLD), 8000), (mapped(NEW), 8000)),
    (("0.0.0.0", 8000), ("0.0.0.0", 8000)),  # noqa: S104
    (("::", 8000), ("::", 8000)),
    (("127.0.0.1", 8000), ("127.0.0.1", 8000)),
    (("10.1.0.50", 8000), ("10.1.0.50", 8000)),
]


@pytest.mark.parametrize(("before", "after"), LISTENING)
@pytest.mark.parametrize("state", [LISTEN, CLOSE])
def test_bound_sockets_move(before, after, state):
    entries = [sock(before, state=state)]
    sockets.rewrite(entries, MOVED)
    assert ends(entries[0])[0] == after
    assert ends(entries[0])[2] == state


def test_udp_is_never_closed_and_moves():
    udp = socket.IPPROTO_UDP
    entries = [
        sock((OLD, 5000), ("10.9.9.9", 53), proto=udp),
        sock((OLD, 5001), (OLD, 5000), proto=udp),
        sock((OLD, 5002), state=CLOSE, proto=udp),
    ]
    assert sockets.rewrite(entries, MOVED) == (0, 4)
    assert ends(entries[0]) == ((NEW, 5000), ("10.9.9.9", 53), ESTABLISHED)
    assert ends(entries[1]) == ((NEW, 5001), (NEW, 5000), ESTABLISHED)
    assert ends(entries[2])[0] == (NEW, 5002)


def test_two_addresses_that_change_places():
    entries = [sock((OLD, 1), state=LISTEN), sock((NEW, 1), state=LISTEN)]
    assert sockets.rewrite(entries, {OLD: NEW, NEW: OLD}) == (0, 2)
    assert [ends(e)[0][0] for e in entries] == [NEW, OLD]


def test_other_files_are_left_alone():
    entry = pb.FileEntry(type=1, id=1, reg=pb.RegFileEntry(id=1, flags=0, name="/x"))
    before = entry.SerializeToString()
    assert sockets.rewrite([entry], MOVED) == (0, 0)
    assert entry.SerializeToString() == before


def test_a_closed_connection_has_no_end_of_file():
    entry = sock((OLD, 8000), ("10.9.9.9", 50000), state=8)
    entry.isk.shutdown = 1
    inside = [sock((OLD, 1), (OLD, 2)), sock((OLD, 2), (OLD, 1))]
    inside[0].isk.shutdown = 1
    sockets.rewrite([entry, *inside], {})
    assert not entry.isk.HasField("shutdown")
    assert inside[0].isk.shutdown == 1


def test_what_was_closed_before_stays_closed():
    """CRIU would make it established again, in the middle of a connection nobody has."""
    entries = [
        sock((OLD, 40000), (OLD, 8000), state=CLOSE),
        sock(("127.0.0.1", 40001), ("127.0.0.1", 8000), state=CLOSE),
        sock(("127.0.0.1", 8000), ("127.0.0.1", 40001)),
    ]
    entries[0].isk.shutdown = 3
    assert sockets.rewrite(entries, MOVED) == (1, 0)
    for entry in entries:
        assert ends(entry) == (("0.0.0.0", 0), ("0.0.0.0", 0), CLOSE)  # noqa: S104
    assert entries[0].isk.shutdown == 3


def test_what_was_never_sent_counts_as_sent():
    name = "tcp-stream-7.img"
    queues = b"received" + b"sent" + b"not sent"
    made = images.encode(name, [pb.TcpStreamEntry(inq_len=8, outq_len=12, unsq_len=8)]) + queues
    settled = sockets.settle(made, name)
    stream, rest = images.head(settled, pb.TcpStreamEntry, name)
    assert (stream.inq_len, stream.outq_len, stream.unsq_len) == (8, 12, 0)
    assert rest == queues
    assert sockets.settle(settled, name) is settled
    with pytest.raises(errors.ArtifactError, match="0 entries"):
        sockets.settle(made[:8], name)
    with pytest.raises(errors.ArtifactError, match="inside an entry"):
        sockets.settle(made[:14], name)
