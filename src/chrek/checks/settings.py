"""What checks are told about a release: the file that the chart writes for them."""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any, Literal

import msgspec
import yaml

from chrek import errors

LONGEST_LABEL = 63
"""Characters in the value of a label."""


class Claim(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="Claim",
):
    """The volume claim of a store on a volume."""

    name: str
    create: bool
    """Whether the chart makes it."""
    storageClassName: str
    """Empty means the cluster's default class."""
    accessModes: list[str]
    size: str


class Server(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="Server",
):
    """The server of a store in a bucket or a registry, and what opens it."""

    type: Literal["s3", "oci"]
    uri: str
    endpoint: str
    """Of S3, as in the values; may be empty."""
    plainHttp: bool
    credentialsSecret: str
    """In the release's namespace, as the next two; empty when the values name none."""
    caConfigMap: str
    keySecret: str


class Prewarm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A DynamoCheckpoint that the release makes."""

    name: str
    namespace: str
    everyNode: bool
    """Whether nodes fetch its artifacts before a pod asks."""
    spec: dict[str, Any]


class ReleaseConfig(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="ReleaseConfig",
):
    """Names and wishes of a release, as its templates and values have them."""

    apiVersion: Literal["chrek.nvidia.com/v1alpha1"]
    helmRelease: str
    release: str
    """`<namespace>-<fullname>`: the first part of names that the release makes."""
    namespace: str
    watchNamespaces: list[str]
    crds: list[str]
    store: Claim | Server
    agentName: str
    """Name of the DaemonSet; empty when the release has none."""
    agentLabels: dict[str, str]
    """Labels that select the agents' pods."""
    operatorName: str
    """Name of the Deployment; empty when the release has none."""
    operatorLabels: dict[str, str]
    """Labels that select the operator's pods."""
    webhookName: str
    testPodName: str
    """What `helm test` runs; empty when the release has none."""
    identitiesName: str
    identities: list[dict[str, Any]]
    timeoutSeconds: int
    maxUnavailableNodes: str
    """A number, or a percentage that is rounded down."""
    agentHttpPort: int
    prewarm: list[Prewarm]
    nodePaths: list[str]
    """Directories of nodes that only this release uses."""

    def label(self) -> str:
        """Value of `names.LABEL_RELEASE` on what belongs to the release.

        A release's name may be longer than a label's value: then a digest tells it from others.
        """
        if len(self.release) <= LONGEST_LABEL:
            return self.release
        digest = hashlib.sha256(self.release.encode()).hexdigest()[:8]
        return f"{self.release[: LONGEST_LABEL - 9]}-{digest}"

    def allowed_unavailable(self, nodes: int) -> int:
        """How many of `nodes` may be without a ready agent."""
        if self.maxUnavailableNodes.endswith("%"):
            return nodes * int(self.maxUnavailableNodes[:-1]) // 100
        return int(self.maxUnavailableNodes)


def load(path: pathlib.Path) -> ReleaseConfig:
    """Read the file.

    Raises:
        ConfigError: it cannot be read, is not YAML, or a field is wrong.
    """
    try:
        return parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as err:
        raise _unusable(str(path), err) from err


def parse(text: str, where: str) -> ReleaseConfig:
    """Read the text of the file.

    Args:
        text: YAML.
        where: its name, for messages.

    Raises:
        ConfigError: it is not YAML, or a field is wrong.
    """
    try:
        return msgspec.convert(_yaml(text, where), ReleaseConfig)
    except msgspec.ValidationError as err:
        raise _unusable(where, err) from err


def load_pod(path: pathlib.Path) -> dict[str, Any] | None:
    """Read the agent's pod as the chart renders it; `None` when the release has no agent.

    Raises:
        ConfigError: it cannot be read or is not a pod.
    """
    try:
        return parse_pod(path.read_text(), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as err:
        raise _unusable(str(path), err) from err


def parse_pod(text: str, where: str) -> dict[str, Any]:
    """Read the text of the agent's pod.

    Raises:
        ConfigError: it is not a pod.
    """
    found = _yaml(text, where)
    parts = ("metadata", "spec")
    if not isinstance(found, dict) or not all(isinstance(found.get(p), dict) for p in parts):
        raise _unusable(where, "not a pod")
    return found


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    # A ValueError: a date or number that looks like one and is none.
    except (yaml.YAMLError, ValueError) as err:
        raise _unusable(where, err) from err


def _unusable(where: str, problem: object) -> errors.ConfigError:
    return errors.ConfigError(f"{where}: {problem}", hint="the chart writes this file")
