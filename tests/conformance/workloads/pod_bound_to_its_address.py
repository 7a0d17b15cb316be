"""Sockets bound to the pod's own address, TCP and UDP, and a connection through it."""

import os
import socket

OPTIONS = {
    "pod_only": True,
    "container": {
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    },
    "differs": {"/environ": "not compared: POD_IP"},
}


def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("10.0.0.1", 9))
        return asking.getsockname()[0]


def setup():
    address = os.environ["POD_IP"]
    server = socket.create_server((address, 9100))
    client = socket.create_connection((address, 9100))
    taken, _ = server.accept()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((address, 9101))
    return server, client, taken, datagrams


def check(state):
    server, client, taken, datagrams = state
    address = own_address()
    with socket.create_connection((address, 9100), 5) as fresh:
        other, _ = server.accept()
        with other:
            other.sendall(b"fresh")
            said = [fresh.recv(10).decode()]
    client.sendall(b"kept")
    said.append(taken.recv(10).decode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"datagram", (address, 9101))
    said.append(datagrams.recv(10).decode())
    bound = {one.getsockname()[0] for one in (server, client, taken, datagrams)}
    return {"said": said, "bound": bound == {address}}


def compare(before, after):
    assert before == after == {"said": ["fresh", "kept", "datagram"], "bound": True}
