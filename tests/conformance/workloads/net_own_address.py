"""What is bound to the pod's own address, of both families: TCP, UDP, connections through it."""

import ipaddress
import socket

V4, V6 = socket.AF_INET, socket.AF_INET6


def own(family):
    """This pod's address now; None where it has none of the family."""
    if family == V4:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect(("192.0.2.1", 9))
            return asking.getsockname()[0]
    with open("/proc/net/if_inet6") as file:
        for line in file:
            digits, _, _, scope, *_ = line.split()
            if scope == "00":
                return str(ipaddress.IPv6Address(int(digits, 16)))
    return None


def setup():
    made = []
    for family in (V4, V6):
        address = own(family)
        if address is None:
            continue
        server = socket.create_server((address, 9100), family=family)
        client = socket.create_connection((address, 9100))
        taken, _ = server.accept()
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        datagrams.bind((address, 9101))
        connected = socket.socket(family, socket.SOCK_DGRAM)
        connected.bind((address, 9102))
        connected.connect((address, 9101))
        made.append((family, server, client, taken, datagrams, connected))
    return made


def check(state):
    found = []
    for family, server, client, taken, datagrams, connected in state:
        for one in (server, client, taken, datagrams):
            one.settimeout(10)
        address = own(family)
        with socket.create_connection((address, 9100), 5) as fresh:
            other, _ = server.accept()
            with other:
                other.sendall(b"fresh")
                said = [fresh.recv(10).decode()]
        client.sendall(b"kept")
        said.append(taken.recv(10).decode())
        connected.send(b"datagram")
        data, sender = datagrams.recvfrom(10)
        said.append(data.decode())
        ends = [one.getsockname()[0] for one in (server, client, taken, datagrams, connected)]
        ends += [client.getpeername()[0], taken.getpeername()[0], sender[0]]
        found.append({"said": said, "elsewhere": [end for end in ends if end != address]})
    return {"found": found}


def compare(before, after):
    assert before == after
    assert all(one["said"] == ["fresh", "kept", "datagram"] for one in after["found"])
    assert not any(one["elsewhere"] for one in after["found"])
