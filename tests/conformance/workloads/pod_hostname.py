"""The name of the pod: a new one has its own, and so has what asks for it."""

import os
import socket
import subprocess

OPTIONS = {"pod_only": True}


def setup():
    return socket.gethostname()


def check(state):
    with open("/etc/hosts") as file:
        named = socket.gethostname() in file.read()
    child = subprocess.run(["hostname"], capture_output=True, text=True).stdout.strip()
    return {
        "at_start": state,
        "now": socket.gethostname(),
        "child": child,
        "named": named,
        "variable": os.environ["HOSTNAME"],
    }


def compare(before, after):
    assert before["now"] == before["at_start"] == before["child"]
    assert after["at_start"] == before["at_start"], "memory"
    assert after["now"] == after["child"] == "conformance-pod-hostname"
    assert after["named"], "/etc/hosts is the new pod's"
