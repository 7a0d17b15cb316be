"""Datagrams that wait to be read: they may be lost, as datagrams may, and later ones arrive."""

import socket


def setup():
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 9170))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(("127.0.0.1", 9170))
    for number in range(3):
        sender.send(b"old%d" % number)
    return bound, sender, [True]


def check(state):
    bound, sender, first = state
    if first.pop() if first else False:
        return {"heard": [bound.recv(10, socket.MSG_PEEK).decode()]}
    sender.send(b"new")
    bound.settimeout(10)
    heard = []
    while "new" not in heard:
        heard.append(bound.recv(10).decode())
    return {"heard": heard}


def compare(before, after):
    assert before["heard"] == ["old0"]
    assert after["heard"] in (["new"], ["old0", "old1", "old2", "new"])
