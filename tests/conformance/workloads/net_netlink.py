"""A netlink socket that asks the kernel for the links."""

import socket
import struct


def setup():
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    made.bind((0, 0))
    return made


def check(state):
    # RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP
    state.send(struct.pack("IHHII", 17, 18, 0x301, 1, 0) + b"\0")
    state.settimeout(10)
    kinds = []
    while 3 not in kinds:  # NLMSG_DONE
        data = state.recv(65536)
        while data:
            size, kind = struct.unpack_from("IH", data)
            kinds.append(kind)
            data = data[size + 3 & ~3 :]
    return {"kinds": sorted(set(kinds))}
