"""What commands print as JSON and YAML.

Each output's schema is `schemas/cli/<command>.schema.json`, generated from these classes and those
of modules that `OUTPUTS` names.
Times are RFC 3339 in UTC as the API server has them, empty where there is none; sizes are bytes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from chrek.cli import bench_records, moved

SCHEMA = "https://json-schema.org/draft/2020-12/schema"


class _Record(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    pass


class Users(_Record, frozen=True, kw_only=True):
    """Who asks for a checkpoint now."""

    pods: list[str] = []
    graphs: list[str] = []


class Checkpoint(_Record, frozen=True, kw_only=True):
    """A DynamoCheckpoint, as `chrek list` shows it."""

    namespace: str
    name: str
    model: str
    backend: str
    phase: str
    """Empty while no operator has looked at it."""
    reason: str
    message: str
    hash: str
    variants: int
    """Artifacts, of which `suspect` are not used."""
    suspect: int
    bytes: int
    created_at: str
    last_used_at: str
    users: Users | None
    """Null where pods may not be listed."""


class Artifact(_Record, frozen=True, kw_only=True):
    """An artifact that a checkpoint lists."""

    variant: str
    uuid: str
    digest: str
    image: str
    gpu: str
    node: str
    bytes: int
    created_at: str
    last_restored_at: str
    suspect: bool
    failures: int
    """Pods in which the restored worker died or never got Ready."""
    steps: dict[str, float]
    """Seconds of each step of the capture."""


class Capture(_Record, frozen=True, kw_only=True):
    """A capture that is under way or has failed."""

    variant: str
    phase: str
    reason: str
    message: str
    image: str
    job: str
    """Empty where a serving pod is captured."""
    pods: list[str]


class Detail(_Record, frozen=True, kw_only=True):
    """A DynamoCheckpoint in full."""

    checkpoint: Checkpoint
    identity: dict[str, Any]
    capture_source: str
    deletion_policy: str
    location: str
    storage_type: str
    shares_with: str
    """The older DynamoCheckpoint that has the artifacts; empty where this one has its own."""
    artifacts: list[Artifact]
    captures: list[Capture]
    deleting: bool
    meaning: str
    action: str


class Difference(_Record, frozen=True, kw_only=True):
    """One thing in which a container differs from the captured one."""

    what: str
    detail: str
    reason: str
    """With which a start would be cold; empty where that alone keeps nobody from a restore."""


class Gap(_Record, frozen=True, kw_only=True):
    """What keeps a pod from being managed."""

    what: str
    command: str
    """That mends it."""


class Event(_Record, frozen=True, kw_only=True):
    """An Event of chrek about a pod."""

    at: str
    type: str
    reason: str
    message: str


Outcome = Literal[
    "restored",
    "cold",
    "failed",
    "unhealthy",
    "skipped",
    "unmanaged",
    "source",
    "pending",
    "unknown",
]


class Start(_Record, frozen=True, kw_only=True):
    """How a pod started, and why."""

    namespace: str
    name: str
    node: str
    container: str
    outcome: Outcome
    """`skipped`: the webhook refused to manage it. `unmanaged`: nobody asked it to. `source`: the
    pod is there to be captured. `pending`: it has not started."""
    reason: str
    message: str
    at: str
    told_by: str
    """Where that was read: `annotation`, `condition`, `event`, `log` or `pod`."""
    reference: str
    """Name or hash of the checkpoint that it asks for."""
    variant: str
    checkpoint: Checkpoint | None
    artifact: Artifact | None
    """The one that was used or refused, else the one that fits."""
    capture: Capture | None
    """For this pod's variant, if it is under way or has failed."""
    steps: dict[str, float]
    """Seconds of each step of the restore; empty where the annotation does not have them."""
    seconds: float | None
    """Of the whole restore; steps overlap."""
    steps_command: str
    """That shows them then."""
    differences: list[Difference]
    gaps: list[Gap]
    events: list[Event]
    meaning: str
    action: str
    notes: list[str]
    """What could not be looked at."""


class Other(_Record, frozen=True, kw_only=True):
    """Another pod of the workload."""

    name: str
    outcome: str
    reason: str


class Listing(_Record, frozen=True, kw_only=True):
    """`chrek list`."""

    checkpoints: list[Checkpoint]


class Explanation(_Record, frozen=True, kw_only=True):
    """`chrek explain`."""

    workload: str
    """Such as `deployment/llm`."""
    pods: list[Start]
    others: list[Other]


class VariantFit(_Record, frozen=True, kw_only=True):
    """Whether an artifact is of a pod's image, command and GPU request."""

    variant: str
    image: str
    fits: bool
    suspect: bool


class Comparison(_Record, frozen=True, kw_only=True):
    """A container held against what a checkpoint captures."""

    subject: str
    checkpoint: str
    captured: str
    """What is known of it: `template`, or `image` where a serving pod was captured."""
    variants: list[VariantFit]
    differences: list[Difference]


class Comparisons(_Record, frozen=True, kw_only=True):
    """`chrek diff`."""

    comparisons: list[Comparison]


class Retry(_Record, frozen=True, kw_only=True):
    """`chrek retry`."""

    namespace: str
    name: str
    """Of the DynamoCheckpoint that was annotated: the older one where they share artifacts."""
    value: str
    """Of the annotation; empty where nothing was done."""
    effects: list[str]


class Verified(_Record, frozen=True, kw_only=True):
    """An artifact that was read."""

    path: str
    digest: str
    """Of its manifest; empty where that cannot be read."""
    bytes: int
    seconds: float
    ok: bool
    error: str


class Verification(_Record, frozen=True, kw_only=True):
    """`chrek verify`."""

    artifacts: list[Verified]


class Hashed(_Record, frozen=True, kw_only=True):
    """An identity in a file."""

    hash: str
    name: str
    """Of the DynamoCheckpoint, `graph/service`, or the model of an identity by itself."""
    file: str
    canonical: str
    """What is hashed."""


class Hashes(_Record, frozen=True, kw_only=True):
    """`chrek hash`."""

    identities: list[Hashed]


class Made(_Record, frozen=True, kw_only=True):
    """`chrek checkpoint`."""

    namespace: str
    name: str
    hash: str
    workload: str
    """Such as `deployment/llm`."""
    created: bool
    """False where one of this identity was there."""
    same: bool
    """False where that one captures another image or command than the workload's."""
    phase: str
    """As last seen; empty while no operator has looked at it."""
    message: str
    opted_in: bool
    """Whether the workload's pods ask for it."""


class Check(_Record, frozen=True, kw_only=True):
    """The outcome of a check."""

    group: str
    """`cluster`, `release`, `nodes` or `node NAME`."""
    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    hint: str


class Release(_Record, frozen=True, kw_only=True):
    """A release of chrek, there or in manifests."""

    release: str
    namespace: str
    checks: list[Check]
    failed: int
    warnings: int


class Diagnosis(_Record, frozen=True, kw_only=True):
    """`chrek doctor`."""

    releases: list[Release]


class Removal(_Record, frozen=True, kw_only=True):
    """An artifact that would go."""

    namespace: str
    checkpoint: str
    path: str
    """`HASH/VARIANT/UUID`."""
    bytes: int
    last_used_at: str
    why: str


class Kept(_Record, frozen=True, kw_only=True):
    """Artifacts that stay whatever the quota is."""

    artifacts: int
    bytes: int
    why: str


class Pruning(_Record, frozen=True, kw_only=True):
    """`chrek prune --dry-run`."""

    removals: list[Removal]
    artifacts: int
    """How many would go, in namespaces that are not shown too; so are `bytes` and the rest."""
    bytes: int
    left_bytes: int | None
    """What stays; null where paths were given."""
    max_bytes: int
    """The quota; 0 where there is none."""
    unused_seconds: int
    """After which an artifact goes; 0 where there is no such time."""
    over_bytes: int
    """By which the quota is passed while nothing more may go."""
    kept: list[Kept]


OUTPUTS: dict[str, type[msgspec.Struct]] = {
    "bench": bench_records.Bench,
    "checkpoint": Made,
    "copy": moved.Movement,
    "diff": Comparisons,
    "doctor": Diagnosis,
    "explain": Explanation,
    "export": moved.Movement,
    "hash": Hashes,
    "import": moved.Movement,
    "list": Listing,
    "prune": Pruning,
    "retry": Retry,
    "show": Detail,
    "verify": Verification,
}
"""Command -> what its JSON is."""


def schema(command: str) -> dict[str, Any]:
    """The JSON schema of a command's output."""
    kind = OUTPUTS[command]
    source = f"src/{kind.__module__.replace('.', '/')}.py"
    (found,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    return {
        "$schema": SCHEMA,
        "$id": f"{command}.schema.json",
        "title": f"Output of chrek {command} -o json",
        "$comment": f"Generated by scripts/generate from {source}.",
        **found,
        "$defs": definitions,
    }
