"""A connection between two processes of the tree that is full in both directions."""

import os
import socket


def fill(one):
    one.setblocking(False)
    count = 0
    try:
        while True:
            count += one.send(bytes([count % 251]) * 4096)
    except BlockingIOError:
        return count


def take(one, count):
    one.setblocking(True)
    one.settimeout(50)  # What is queued is sent again when TCP's own timers say so.
    total, seen = 0, 0
    while total < count:
        data = one.recv(65536)
        if not data:
            break
        total += len(data)
        seen = (seen + sum(data)) % 1_000_003
    return total, seen


def setup():
    server = socket.create_server(("127.0.0.1", 0))
    asked, told = os.pipe(), os.pipe()
    if os.fork() == 0:
        client = socket.create_connection(server.getsockname())
        sent = fill(client)
        os.write(told[1], b"%d\n" % sent)
        expected = int(os.read(asked[0], 20))
        os.write(told[1], b"%d %d\n" % take(client, expected))
        os.read(asked[0], 1)
        os._exit(0)
    taken, _ = server.accept()
    back = os.fdopen(told[0])
    theirs = int(back.readline())
    return taken, fill(taken), theirs, asked[1], back, [True]


def check(state):
    taken, ours, theirs, ask, back, first = state
    if first.pop() if first else False:
        return {"ours": ours, "theirs": theirs}
    os.write(ask, b"%d" % ours)
    received = take(taken, theirs)
    sent = [int(word) for word in back.readline().split()]
    return {"ours": sent[0], "theirs": received[0], "sums": [sent[1], received[1]]}


def compare(before, after):
    assert before["ours"] > 4096
    assert (before["ours"], before["theirs"]) == (after["ours"], after["theirs"])
    assert all(after["sums"])
