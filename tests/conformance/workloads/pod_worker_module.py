"""A worker that asks to be told: its hooks run, its variables and random numbers are new."""

import os
import random
import socket
import sys

OPTIONS = {
    "pod_only": True,
    "env": {"FIXED": "same"},
    "differs": {"/10003/maps": "its hooks run as soon as it is restored"},
    "container": {
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    },
}


def setup():
    sys.path.append("/chrek")
    import chrek_worker as chrek

    random.seed(1)
    calls = []
    chrek.on_restored(lambda context: calls.append([context.clone_id, os.environ["POD"]]))
    chrek.ready()
    os.environ["OWN"] = "kept"
    return chrek, calls, [True]


def check(state):
    chrek, calls, first = state
    restored = False if first.pop() else chrek.wait_until_restored(20)
    first.append(False)
    now = chrek.context()
    return {
        "restored": restored,
        "calls": calls,
        "name": socket.gethostname(),
        "variables": [os.environ["POD"], os.environ["FIXED"], os.environ["OWN"]],
        "context": [now.pod["name"], now.environment["FIXED"], len(now.seed)] if now else None,
        "random": random.random(),
    }


def compare(before, after):
    pod = "conformance-pod-worker-module"
    assert not before["restored"]
    assert before["context"] is None
    assert before["calls"] == []
    assert after["restored"]
    assert [name for _, name in after["calls"]] == [pod]
    assert after["variables"] == [pod, "same", "kept"]
    assert after["context"] == [pod, "same", 32]
    random.seed(1)
    assert before["random"] == random.random()
    assert after["random"] != random.random()
