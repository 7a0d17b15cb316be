"""Sockets that CRIU cannot dump or restore, known before anything is frozen.

Source: can_dump_ipproto and do_dump_one_inet_fd in criu/sk-inet.c, dump_socket in criu/sockets.c of
CRIU 4.2.
"""

from __future__ import annotations

import ipaddress
import socket

from chrek import rootfd

IPPROTO_MPTCP = 262
_FAMILIES = frozenset(
    {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET}
)
_INTERNET = frozenset({socket.AF_INET, socket.AF_INET6})
_TYPES = frozenset({socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW})
_PROTOCOLS = frozenset(
    {
        *(socket.IPPROTO_IP, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE),
        *(socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6),
    }
)


def problem(pidfd: int, number: int) -> tuple[str, str] | None:
    """What a descriptor of a process is, and what to do about it; None for a socket that is fine.

    Raises:
        OSError: it is not open any more.
    """
    with socket.socket(fileno=rootfd.descriptor(pidfd, number)) as held:
        if held.family not in _FAMILIES:
            return f"a socket of family {_name(held.family)}", "have the program do without"
        if held.family not in _INTERNET:
            return None
        if held.proto == IPPROTO_MPTCP:
            return "a multipath TCP socket", "set GODEBUG=multipathtcp=0 for programs in Go"
        if held.type not in _TYPES or (
            held.type != socket.SOCK_RAW and held.proto not in _PROTOCOLS
        ):
            what = f"a socket of protocol {held.proto} and type {_name(held.type)}"
            return what, "have the program do without"
        if held.family == socket.AF_INET6 and _is_link_local(held):
            return (
                "a socket bound to a link-local address",
                "bind it to another one, or to a device",
            )
    return None


def _is_link_local(held: socket.socket) -> bool:
    address, port, *_ = held.getsockname()
    if not port or not ipaddress.IPv6Address(address.partition("%")[0]).is_link_local:
        return False
    return not held.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0")


def _name(number: object) -> str:
    return getattr(number, "name", str(number))
