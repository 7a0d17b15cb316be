"""Files that the kubelet writes for each pod: names are looked up as the new pod's."""

import os
import socket

OPTIONS = {"pod_only": True}


def setup():
    return [open(name) for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname")]


def check(state):
    for one in state:
        one.seek(0)
    resolver, hosts, name = (one.read() for one in state)
    return {
        "resolver": "nameserver" in resolver,
        "hosts": os.uname().nodename in hosts,
        "name": name.strip() == os.uname().nodename,
        "own": socket.gethostbyname(os.uname().nodename) in hosts,
    }
