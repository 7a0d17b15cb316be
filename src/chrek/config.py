"""Configuration of the agent and of the operator: typed, read once at start.

The chart writes both files; `schemas/config.schema.json` is generated from these classes.
Environment variables carry only what the downward API knows: NODE_NAME, POD_NAME, POD_NAMESPACE.
"""

from __future__ import annotations

import enum
import pathlib
from typing import Annotated, Literal, TypeVar

import msgspec
import yaml

from chrek import errors, names


class Pvc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A volume that every node mounts."""

    pvcName: str = "chrek-pvc"
    basePath: str = "/checkpoints"


class S3(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bucket."""

    uri: str = ""
    """`s3://bucket/prefix` or `s3://host[:port]/bucket/prefix`."""
    endpoint: str = ""
    """`https://host[:port]`; counts before a host in `uri`. Empty: AWS."""
    region: str = ""
    plainHttp: bool = False
    caBundlePath: str = ""
    """PEM file of further certificate authorities."""
    credentialsPath: str = ""
    """Where the Secret with the keys `AWS_*` is mounted; empty: the pod's own identity."""


class Oci(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A repository of a container registry."""

    uri: str = ""
    """`oci://registry/repository`."""
    plainHttp: bool = False
    caBundlePath: str = ""
    credentialsPath: str = ""
    """Where the Secret with `.dockerconfigjson` is mounted; empty: nobody."""


class Cache(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node keeps of artifacts that live on a server."""

    path: str = "/var/lib/chrek/cache"
    sizeBytes: int = 100 << 30
    """Beyond it the least recently used go."""


class Encryption(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of what is stored on a server."""

    keyPath: str = ""
    """Where the Secret with the key is mounted; empty: nothing is encrypted."""


class Storage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where artifacts live."""

    type: Literal["pvc", "s3", "oci"] = "pvc"
    pvc: Pvc = Pvc()
    s3: S3 = S3()
    oci: Oci = Oci()
    cache: Cache = Cache()
    encryption: Encryption = Encryption()

    def base(self, namespace: str) -> str:
        """Path or URI below which the identity hashes of a namespace are.

        Args:
            namespace: empty for the release's own.
        """
        bases = {"pvc": self.pvc.basePath, "s3": self.s3.uri, "oci": self.oci.uri}
        base = bases[self.type].rstrip("/")
        return f"{base}/ns/{namespace}" if namespace else base


class EnvFromSecrets(enum.StrEnum):
    """Whether workers are captured whose environment has values of Secrets."""

    ALLOW = "Allow"
    REQUIRE_ACKNOWLEDGEMENT = "RequireAcknowledgement"
    """Only those that an annotation acknowledges."""


class ImageLookup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the operator finds the command of a container that names only an image."""

    enabled: bool = True
    pullSecretNames: list[str] = []
    """Pull secrets that the operator may read, by name; pods' other secrets stay unread."""
    plainHttpRegistries: list[str] = []
    """`host[:port]` of registries that are asked without TLS."""


class Platform(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who reconciles what, where the Dynamo platform is installed as well."""

    graphs: Literal["auto", "chrek", "platform"] = "auto"
    """Who makes the pods of DynamoGraphDeployments; auto: whoever owns the CRD."""
    checkpoints: Literal["auto", "chrek", "platform"] = "auto"
    """Who makes DynamoCheckpoints Ready; auto: chrek, but for objects that the platform's operator
    has taken on (a status that it wrote, a finalizer of its own)."""


class Housekeeping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which artifacts go by themselves."""

    maxBytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Quota of the release's store; 0: none."""
    unusedSeconds: Annotated[int, msgspec.Meta(ge=0)] = 0
    """An artifact goes when it was not used for so long; 0: it stays."""
    nearlyFullPercent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 90
    """From so much of the quota on nothing more is captured, unless something may go."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an agent uses the GPUs of its node."""

    driverRoots: list[Annotated[str, msgspec.Meta(pattern="^/")]] = []
    """Directories of the node below which the NVIDIA driver's libraries are looked for, in this
    order, when the agent's own container has none; empty: the known places."""
    lockTimeoutSeconds: Annotated[int, msgspec.Meta(ge=1)] = 60
    """How long work that is on GPUs may take to end before a capture."""


class AgentConfig(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="AgentConfig",
):
    """`chrek agent --config FILE`."""

    apiVersion: Literal["chrek.nvidia.com/v1alpha1"]
    release: str
    """`<namespace>-<fullname>`: keys everything on the node that releases could share."""
    watchNamespaces: list[str]
    """Namespaces whose pods this agent serves."""
    storage: Storage = Storage()
    signalHostPath: str = "/var/lib/chrek/signals"
    """The signal path: journal of what is in flight. Survives the agent, not the node."""
    kubeletRoot: str = "/var/lib/kubelet"
    """Where the kubelet keeps pods' volumes, as the agent sees it."""
    stagingPath: str = "/run/chrek"
    """A tmpfs private to the agent: CRIU reads verified copies of small images from it."""
    gpu: Gpu = Gpu()
    httpPort: int = 8089
    """/healthz, /readyz, /preflight, /metrics."""
    startupTaint: str = ""
    """Key of a taint that the agent takes off its node once it is ready; empty: none."""
    restoreTimeoutSeconds: int = 300
    """A restore that takes longer is ended; the pod starts cold."""
    silenceTimeoutSeconds: int = 30
    """The longest time without a progress line after which chrek-init gives the agent up."""
    dumpTimeoutSeconds: int = 1800
    """A dump that takes longer is undone; the worker continues."""
    readyTimeoutSeconds: int = 3600
    """How long a checkpoint job's worker may take to get ready."""
    maxConcurrentOperations: int = 4
    """Dumps and restores at once on this node; more wait for their turn."""
    maxQueuedRestores: int = 32
    """So many may wait; a pod beyond starts cold rather than wait longer than that takes."""
    envFromSecrets: EnvFromSecrets = EnvFromSecrets.ALLOW
    ignoreDifferences: list[Literal["secrets", "configMaps"]] = []
    """What a restored worker may have other values of than the new container."""
    logLevel: Literal["debug", "info", "warning", "error"] = "info"


class OperatorConfig(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="OperatorConfig",
):
    """`chrek operator --config FILE`."""

    apiVersion: Literal["chrek.nvidia.com/v1alpha1"]
    release: str
    """`<namespace>-<fullname>`."""
    watchNamespaces: list[str]
    initImage: str
    initImagePullPolicy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    storage: Storage = Storage()
    leaseName: str
    webhookName: str
    """Name of the MutatingWebhookConfiguration whose caBundle the operator keeps."""
    webhookServiceName: str
    certificateSecretName: str
    agentServiceAccountName: str
    deletionJobPath: str = ""
    """The chart's template of the Job that deletes artifacts; empty: artifacts are kept."""
    housekeeping: Housekeeping = Housekeeping()
    imageLookup: ImageLookup = ImageLookup()
    platform: Platform = Platform()
    envFromSecrets: EnvFromSecrets = EnvFromSecrets.ALLOW
    webhookPort: int = 9443
    httpPort: int = 8089
    agentWaitSeconds: int = 20
    """How long a worker waits for its node's agent when the checkpoint was Ready at admission."""
    logLevel: Literal["debug", "info", "warning", "error"] = "info"


ConfigT = TypeVar("ConfigT", AgentConfig, OperatorConfig)


def load(path: pathlib.Path, kind: type[ConfigT]) -> ConfigT:
    """Read a configuration file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or a field is wrong (with its path).
    """
    hint = (
        f"see schemas/config.schema.json; the chart writes this file ({names.CONFIG_API_VERSION})"
    )
    try:
        raw = yaml.safe_load(path.read_text())
        return msgspec.convert(raw, kind)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as err:
        raise errors.ConfigError(f"{path}: {err}", hint=hint) from err
