"""Pods and DynamoCheckpoints as the agent keeps them, and a chrek-init on the other end."""

from __future__ import annotations

import asyncio
import os
import platform
import socket

import msgspec

from chrek import manifest, peer
from chrek import store as stores
from chrek.agent import connection, objects

HASH = "0123456789abcdef"
POD = objects.Pod(
    namespace="ns",
    name="p",
    uid="uid-1",
    checkpoint="llm",
    container="main",
    image="llm:1",
    command=("serve",),
    variant="aaaa",
    environment={"A": "1"},
    volumes=(),
    has_readiness_probe=False,
    never_restarts=False,
    ready=False,
    finished=False,
    owner_job="",
    capture={},
)


def checkpoint(name="llm", *, job="", **changed):
    """A DynamoCheckpoint; with a job, that one captures it."""
    fields = {
        "namespace": "ns",
        "phase": "Ready",
        "identity_hash": HASH,
        "variants": (objects.Variant("aaaa", "u", "sha256:1"),),
        "captures": (objects.Capture("aaaa", "Creating", job),) if job else (),
    }
    return objects.Checkpoint(name=name, **{**fields, **changed})


def described(uuid="u", **source):
    facts = {
        "image": "llm:1",
        "command": ["serve"],
        "environment": {"A": "1"},
        "architecture": platform.machine(),
        "kernel": "6",
        "hostname": "h",
        "addresses": [],
    }
    return manifest.Manifest(
        version=1,
        uuid=uuid,
        identityHash=HASH,
        variant="aaaa",
        createdAt="2026-01-01T00:00:00Z",
        chrekVersion="0.1.0",
        rootPid=10001,
        stdio=["/dev/null"] * 3,
        volumes=[],
        source=msgspec.convert({**facts, **source}, manifest.Source),
        files=[],
        steps={"dump": 1.0, "files": 0.5},
    )


def commit(base, namespace="ns", **source):
    """Store an artifact; returns what the status of its DynamoCheckpoint says of it."""
    store = stores.Store(base, namespace)
    stage = store.stage(HASH, "aaaa")
    digest = store.commit(stage, described(stage.uuid, **source))
    return objects.Variant("aaaa", stage.uuid, digest)


class Init:
    """chrek-init's end of a conversation; a process of the test stands for PID 1."""

    def __init__(self, pid):
        ours, self.socket = socket.socketpair()
        self.socket.setblocking(False)
        self.conn = connection.Connection(ours)
        self.lines = []
        self.peer = peer.Peer(
            pid=pid,
            pidfd=os.pidfd_open(pid),
            pod_uid="uid-1",
            container_id="c" * 64,
            container="main",
        )
        self._reading = connection.Connection(self.socket)

    async def read(self, word=""):
        """The next line that begins with a word; None at the end of the conversation."""
        async with asyncio.timeout(5):
            while True:
                line = await self._reading.receive()
                self.lines.append(line)
                if line is None or line.startswith(word):
                    return line

    async def say(self, line):
        await self._reading.send(line)

    def hang_up(self):
        self.socket.close()

    def close(self):
        self.conn.close()
        self.socket.close()
        self.peer.close()


class Reporter:
    """Keeps what it is told."""

    def __init__(self):
        self.told = []
        self.starts = []
        self.results = []
        self.refuse = None

    def start(self, pod, start):
        self.starts.append((pod.name, start))

    def event(self, pod, kind, reason, message):
        self.told.append((pod.name, kind, str(reason), message))

    async def result(self, pod, result):
        if self.refuse:
            raise self.refuse
        self.results.append(result)
