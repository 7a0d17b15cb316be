"""What `chrek bench` prints and writes.

Its fields are named as in the files of `scripts/bench`, beside which `chrek report --bench` draws
it: what is a plot there has a unit at the end of its name.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Node(_Record, frozen=True, kw_only=True):
    """A node that pods ran on; only its name where nodes may not be read."""

    name: str
    kubelet: str = ""
    container_runtime: str = ""
    kernel: str = ""
    os_image: str = ""
    architecture: str = ""
    cpus: str = ""
    memory: str = ""
    """As the node can give it to pods."""
    gpus: dict[str, str] = {}
    """The same of each GPU resource."""
    gpu_product: str = ""
    """As GPU feature discovery labels it."""


class Machine(_Record, frozen=True, kw_only=True):
    """Where and when it was measured."""

    date: str
    chrek: str
    """Version of the command, not of the release."""
    kubernetes: str
    nodes: list[Node]


class Spread(_Record, frozen=True, kw_only=True):
    """Seconds of several pods."""

    median: float
    least: float
    most: float


PhaseName = Literal["create", "schedule", "start", "serve", "ready", "restore"]


class Phase(_Record, frozen=True, kw_only=True):
    """A part of a start. All but `ready` and `restore` follow each other."""

    name: PhaseName
    """`create`: until the API server answered. `schedule`: until it had a node. `start`: until its
    containers ran. `serve`: until it was Ready. `ready`: all of them. `restore`: what the agent
    says that its restore took."""
    cold: Spread | None
    warm: Spread | None
    ratio: float | None
    """Cold median by warm median, of `ready` alone."""


class Trial(_Record, frozen=True, kw_only=True):
    """A pod that was made and deleted again."""

    pod: str
    kind: Literal["cold", "warm"]
    node: str
    counted: bool
    """Whether it got Ready, and started as it was meant to."""
    created: float | None
    """Seconds from the request to create it, as this machine saw them."""
    scheduled: float | None
    started: float | None
    ready: float | None
    outcome: str
    """As `chrek explain` says it; a cold pod that counts is `unmanaged`."""
    reason: str
    message: str
    restore_seconds: float | None
    steps: dict[str, float]
    """Seconds of each step of the restore, of which some overlap."""
    pulled: bool
    """Whether an image had to be pulled first."""
    restarts: int
    problem: str
    """Why it did not get Ready; empty when it did."""


class Bench(_Record, frozen=True, kw_only=True):
    """`chrek bench`."""

    what: Literal["bench"] = "bench"
    machine: Machine
    workload: str
    """Such as `deployment/llm`."""
    namespace: str
    checkpoint: str
    hash: str
    variant: str
    requests: dict[str, str]
    """What each pod asks for."""
    medians: dict[str, float]
    phases: list[Phase]
    trials: list[Trial]
    problem: str
    """Why it ended early; empty when all pods were made."""
    notes: list[str]
    """What could not be looked at, and what else to know of the figures."""
