"""Lines from a peer that may send anything, and to one that may not read."""

import asyncio
import os
import socket
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrek import errors
from chrek.agent import connection


@pytest.fixture
async def pair():
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    made = connection.Connection(ours)
    yield made, theirs
    made.close()
    theirs.close()


async def test_lines(pair):
    conn, peer = pair
    peer.send(b"chrek 1 start\nnonce ab\n\nla")
    assert await conn.receive() == "chrek 1 start"
    assert await conn.receive() == "nonce ab"
    assert await conn.receive() == ""
    waiting = asyncio.ensure_future(conn.receive())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    for byte in b"st\n":
        peer.send(bytes([byte]))
        await asyncio.sleep(0)
    assert await waiting == "last"


async def test_the_end_of_a_conversation(pair):
    conn, peer = pair
    peer.send(b"whole\npart of a line")
    peer.close()
    assert await conn.receive() == "whole"
    assert await conn.receive() is None
    assert await conn.receive() is None


async def test_a_peer_that_resets(pair):
    conn, peer = pair
    await conn.send("unread")
    peer.close()
    assert await conn.receive() is None


LONGEST = connection.MAX_LINE_BYTES


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"x" * (LONGEST + 1) + b"\n", f"longer than {LONGEST}"),
        (b"x" * 3000 + b"\n", f"longer than {LONGEST}"),
        (b"x" * 5000, f"longer than {LONGEST}"),
        (b"\xff\xfe\n", "not ASCII"),
        ("é\n".encode(), "not ASCII"),
    ],
    ids=range(5),
)
async def test_lines_that_are_refused(pair, sent, message):
    conn, peer = pair
    peer.send(sent)
    with pytest.raises(errors.PeerError, match=message):
        await conn.receive()


async def test_the_longest_line(pair):
    conn, peer = pair
    peer.send(b"x" * (LONGEST - 1) + b"\n")
    assert len(await conn.receive()) == LONGEST - 1


@given(data=st.binary(max_size=3000), cut=st.integers(0, 3000))
def test_any_bytes_are_lines_or_an_error(data, cut):
    async def talk():
        ours, theirs = socket.socketpair()
        conn = connection.Connection(ours)
        with theirs:
            theirs.send(data[:cut])
            theirs.send(data[cut:])
        lines = []
        try:
            while (line := await conn.receive()) is not None:
                lines.append(line)
        except errors.PeerError:
            pass
        finally:
            conn.close()
        return lines

    lines = asyncio.run(talk())
    assert [line.encode() for line in lines] == data.split(b"\n")[: len(lines)]


async def test_only_one_printable_line_is_sent(pair):
    conn, peer = pair
    assert await conn.send("cold", "Reason", "two\nlines\0 \x1b[31m é \U0001f600\r\x7f end")
    assert peer.recv(4096) == b"cold Reason two lines   [31m       end\n"
    await conn.send("failed", "Reason", "x" * 5000)
    line = peer.recv(8192)
    assert len(line) == LONGEST
    assert line.endswith(b"x\n")


@given(words=st.lists(st.text(max_size=600), min_size=1, max_size=4))
def test_whatever_is_sent_is_one_line(words):
    async def talk():
        ours, theirs = socket.socketpair()
        conn = connection.Connection(ours)
        assert await conn.send(*words)
        conn.close()
        with theirs:
            return theirs.recv(10000)

    line = asyncio.run(talk())
    assert line.endswith(b"\n")
    assert len(line) <= LONGEST
    assert set(line[:-1].decode()) <= set(string.printable) - set("\t\n\r\x0b\x0c")


async def test_sending_to_a_peer_that_is_gone(pair):
    conn, peer = pair
    peer.close()
    assert not await conn.send("progress", "x")


async def test_sending_to_a_peer_that_does_not_read(pair, monkeypatch):
    monkeypatch.setattr(connection, "SEND_SECONDS", 0.05)
    conn, _ = pair
    async with asyncio.timeout(5):
        while await conn.send("progress", "x" * 1000):
            pass


async def test_lines_of_two_senders_do_not_mix(pair):
    conn, peer = pair
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    sending = [asyncio.ensure_future(conn.send(str(n) * 900)) for n in range(8)]
    received = b""
    async with asyncio.timeout(5):
        while received.count(b"\n") < 8:
            received += await asyncio.get_running_loop().sock_recv(peer, 700)
    assert all(await asyncio.gather(*sending))
    assert sorted(received.split()) == [str(n).encode() * 900 for n in range(8)]


async def test_closed_returns_when_the_peer_is_gone(pair):
    conn, peer = pair
    waiting = asyncio.ensure_future(conn.closed())
    peer.send(b"started 7\nmore\n")
    await asyncio.sleep(0.01)
    assert not waiting.done()
    peer.close()
    await asyncio.wait_for(waiting, 1)


async def test_closed_returns_on_garbage(pair):
    conn, peer = pair
    peer.send(os.urandom(8).replace(b"\n", b"x") + b"\xff\n")
    await asyncio.wait_for(conn.closed(), 1)
