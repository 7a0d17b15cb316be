"""What checks are told about a release: the file that the chart writes for them."""

from __future__ import annotations

import pathlib
from typing import Any, Literal

import msgspec
import yaml

from chrek import errors


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
    cachePath: str
    """Directory of the nodes with copies of artifacts."""


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
        return msgspec.convert(yaml.safe_load(path.read_text()), ReleaseConfig)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as err:
        raise errors.ConfigError(f"{path}: {err}", hint="the chart writes this file") from err


def load_pod(path: pathlib.Path) -> dict[str, Any] | None:
    """Read the agent's pod as the chart renders it; `None` when the release has no agent.

    Raises:
        ConfigError: it cannot be read or is not YAML.
    """
    try:
        found: dict[str, Any] = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, yaml.YAMLError) as err:
        raise errors.ConfigError(f"{path}: {err}", hint="the chart writes this file") from err
    return found
