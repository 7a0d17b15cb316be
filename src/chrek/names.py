"""Every name that another program, a user or a Kubernetes object sees.

Reasons, labels, annotations, environment variables and the aliases of older spellings live here and
nowhere else, so that code, chart and documentation cannot drift apart.
"""

from __future__ import annotations

import enum

GROUP = "nvidia.com"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CHECKPOINT_KIND = "DynamoCheckpoint"
CHECKPOINT_PLURAL = "dynamocheckpoints"
GRAPH_KIND = "DynamoGraphDeployment"
GRAPH_PLURAL = "dynamographdeployments"
CONFIG_API_VERSION = "chrek.nvidia.com/v1alpha1"

ANNOTATION_CHECKPOINT = "nvidia.com/chrek-checkpoint"
"""Opts a pod in: the identity hash or the name of a DynamoCheckpoint in the pod's namespace."""
ANNOTATION_IDENTITY = "nvidia.com/chrek-identity"
"""JSON of an identity on a pod: its checkpoint is made from the pod when there is none."""
ANNOTATION_CAPTURE_SOURCE = "nvidia.com/chrek-capture-source"
"""`job` or `worker`: how a checkpoint that is made from a pod with an identity is captured."""
ANNOTATION_CONTAINER = "nvidia.com/chrek-container"
ANNOTATION_TRACE = "nvidia.com/chrek-trace"
"""UID of the admission that injected a pod: stands in every log line of its start."""
ANNOTATION_NCCL = "nvidia.com/chrek-nccl"
"""`keep` on a pod: its NCCL gets no environment of chrek's."""
ANNOTATION_SKIPPED = "nvidia.com/chrek-skipped"
ANNOTATION_CAPTURE = "nvidia.com/chrek-capture"
ANNOTATION_RESULT = "nvidia.com/chrek-result"
"""What became of a capture, on the pod that was captured. Only the agent may write it."""
ANNOTATION_START = "nvidia.com/chrek-start"
"""How a managed container started last, on its pod. Only the agent may write it."""
ANNOTATION_RETRY = "chrek.nvidia.com/retry"
"""On a DynamoCheckpoint that is Failed or Suspect: any new value has it tried again."""
ANNOTATION_ACKNOWLEDGE_SECRETS = "chrek.nvidia.com/acknowledge-secrets"
"""`true` on a DynamoCheckpoint or a pod: its artifact may hold values of Secrets."""
ANNOTATION_PREWARM = "chrek.nvidia.com/prewarm"
"""`true` on a DynamoCheckpoint: nodes fetch its artifacts into their caches before a pod asks."""
ANNOTATION_MADE_FROM = "nvidia.com/chrek-made-from"
"""On a DynamoCheckpoint that chrek made: the `graph/service` whose pods it was made for."""
ANNOTATION_STATE = "nvidia.com/chrek-state"
"""On a DynamoCheckpoint whose CRD another chart owns: the status fields that this CRD drops."""
LABEL_MANAGED = "nvidia.com/chrek-managed"
LABEL_SOURCE = "nvidia.com/chrek-is-checkpoint-source"
LABEL_HASH = "nvidia.com/chrek-checkpoint-hash"
LABEL_AUTO = "nvidia.com/chrek-auto"
"""`true` on DynamoCheckpoints that chrek made: they are made again when their artifact is lost."""
LABEL_DELETION = "nvidia.com/chrek-deletion"
"""`true` on the Jobs that delete artifacts."""
LABEL_RELEASE = "chrek.nvidia.com/release"
"""`<namespace>-<fullname>` of the release that an object which is not Helm's belongs to."""
LABEL_BENCH = "chrek.nvidia.com/bench"
"""On the pods of `chrek bench`: which run of it made them."""
LABEL_GRAPH = "nvidia.com/dynamo-graph-deployment-name"
LABEL_SERVICE = "nvidia.com/dynamo-component"
CONDITION_RESTORED = "nvidia.com/Restored"
CONDITION_READY = "Ready"
CONDITION_SHARED = "SharedWith"
CONDITION_SUSPECT = "Suspect"
FINALIZER = "nvidia.com/chrek"

ENV_STORAGE_TYPE = "DYN_CHECKPOINT_STORAGE_TYPE"
ENV_LOCATION = "DYN_CHECKPOINT_LOCATION"
ENV_PATH = "DYN_CHECKPOINT_PATH"
ENV_HASH = "DYN_CHECKPOINT_HASH"
ENV_READY_FILE = "DYN_READY_FOR_CHECKPOINT_FILE"
ENV_CONTROL_DIRECTORY = "DYN_SNAPSHOT_CONTROL_DIR"
"""Where newer Dynamo workers say that they are ready and learn that they were restored."""

VOLUME = "chrek"
MOUNT_PATH = "/chrek"
INIT_PATH = "/chrek/chrek-init"
INIT_CONTAINER = "chrek-init"
SOCKET_NAME = "agent.sock"
READY_FILE = "/chrek/ready-for-checkpoint"
DEFAULT_CONTAINER = "main"
POD_FILES = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"})
"""Files that kubelet and runtime make for each pod: a new one has its own."""

FIRST_WORKER_PID = 10000
"""`ns_last_pid` of a checkpoint job's PID namespace before its worker starts.

Restored PIDs are therefore above it and never meet those of probes or exec sessions in the target.
"""

ENV_ALIASES = {
    "DYNAMO_CHECKPOINT_STORAGE_TYPE": ENV_STORAGE_TYPE,
    "DYNAMO_CHECKPOINT_LOCATION": ENV_LOCATION,
    "DYNAMO_CHECKPOINT_PATH": ENV_PATH,
    "DYNAMO_CHECKPOINT_HASH": ENV_HASH,
    "DYNAMO_CHECKPOINT_SIGNAL_FILE": ENV_READY_FILE,
}
"""Environment variables of the older draft -> today's. Both are set."""

LABEL_ALIASES = {"nvidia.com/checkpoint-source": LABEL_SOURCE}
IDENTITY_ALIASES = {"framework": "backendFramework", "frameworkVersion": "dynamoVersion"}
MODE_ALIASES = {"Auto": "auto", "Reference": "reference"}


GPU_DOMAIN = "nvidia.com/"
"""Extended resources of this domain are GPUs or parts of them (NVIDIA's device plugin)."""


class CaptureSource(enum.StrEnum):
    """What a checkpoint is captured from."""

    JOB = "job"
    """A pod of its own, which a Job starts and which ends with the capture."""
    WORKER = "worker"
    """A serving pod, which is frozen for the capture and then serves on."""


class StartupPolicy(enum.StrEnum):
    """What the pods of a DynamoGraphDeployment do while their checkpoint is being made."""

    IMMEDIATE = "Immediate"
    WAIT_FOR_CHECKPOINT = "WaitForCheckpoint"


class DeletionPolicy(enum.StrEnum):
    """What becomes of the artifacts when the last DynamoCheckpoint of an identity is deleted."""

    DELETE = "Delete"
    RETAIN = "Retain"


class Phase(enum.StrEnum):
    """Phase of a DynamoCheckpoint."""

    PENDING = "Pending"
    CREATING = "Creating"
    READY = "Ready"
    FAILED = "Failed"


class Reason(enum.StrEnum):
    """Why a pod started cold, an injection was skipped or a checkpoint failed.

    The same word stands in the fall-back line of the container's log, in the Event, in the pod
    condition, in metrics and in the troubleshooting guide. Words of `AGENT_*` are printed by
    chrek-init itself.
    """

    RESTORED = "Restored"
    CHECKPOINTED = "Checkpointed"
    # Phases of a checkpoint and states of a service (operator).
    WAITING_FOR_POD = "WaitingForPod"
    WAITING_FOR_RESOURCES = "WaitingForResources"
    WAITING_FOR_WORKER = "WaitingForWorker"
    WAITING_FOR_CHECKPOINT = "WaitingForCheckpoint"
    CAPTURING = "Capturing"
    SHARED_ARTIFACT = "SharedArtifact"
    SUSPECT = "Suspect"
    PRUNED = "Pruned"
    STORE_NEARLY_FULL = "StoreNearlyFull"
    BEING_DELETED = "BeingDeleted"
    DELETION_FAILED = "DeletionFailed"
    AVAILABLE = "Available"
    WAITING_FOR_REPLICAS = "WaitingForReplicas"
    NAME_TAKEN = "NameTaken"
    # The start protocol (chrek-init's own).
    AGENT_UNAVAILABLE = "AgentUnavailable"
    AGENT_GONE = "AgentGone"
    AGENT_SILENT = "AgentSilent"
    AGENT_PROTOCOL = "AgentProtocol"
    # Decisions.
    CHECKPOINT_NOT_FOUND = "CheckpointNotFound"
    CHECKPOINT_NOT_READY = "CheckpointNotReady"
    NO_VARIANT = "NoMatchingVariant"
    PREVIOUS_RESTORE_FAILED = "PreviousRestoreFailed"
    PEER_REFUSED = "PeerRefused"
    AGENT_STOPPING = "AgentStopping"
    BUSY = "AgentBusy"
    # Artifact.
    ARTIFACT_MISSING = "ArtifactMissing"
    ARTIFACT_CORRUPT = "ArtifactCorrupt"
    DIGEST_MISMATCH = "DigestMismatch"
    ARTIFACT_UNREADABLE = "ArtifactUnreadable"
    PRIVILEGE_MISMATCH = "PrivilegeMismatch"
    INCOMPATIBLE = "Incompatible"
    # Facts that differ between the captured and the new container (`chrek.compatibility`).
    ARCHITECTURE_DIFFERS = "ArchitectureDiffers"
    PAGE_SIZE_DIFFERS = "PageSizeDiffers"
    IMAGE_DIFFERS = "ImageDiffers"
    COMMAND_DIFFERS = "CommandDiffers"
    ENVIRONMENT_DIFFERS = "EnvironmentDiffers"
    SECRET_DIFFERS = "SecretDiffers"  # noqa: S105 - a word
    CONFIG_MAP_DIFFERS = "ConfigMapDiffers"
    USER_DIFFERS = "UserDiffers"
    GPU_DIFFERS = "GpuDiffers"
    GPU_COUNT_DIFFERS = "GpuCountDiffers"
    GPU_MEMORY_TOO_SMALL = "GpuMemoryTooSmall"
    GPU_DRIVER_DIFFERS = "GpuDriverDiffers"
    GPU_DRIVER_TOO_OLD = "GpuDriverTooOld"
    GPU_PARTITIONED = "GpuPartitioned"
    CPU_FEATURES_MISSING = "CpuFeaturesMissing"
    XSAVE_AREA_TOO_SMALL = "XsaveAreaTooSmall"
    KERNEL_TOO_OLD = "KernelTooOld"
    CRIU_TOO_OLD = "CriuTooOld"
    TIME_NAMESPACES_MISSING = "TimeNamespacesMissing"
    MEMORY_LIMIT_TOO_LOW = "MemoryLimitTooLow"
    PIDS_LIMIT_TOO_LOW = "PidsLimitTooLow"
    MOUNTS_DIFFER = "MountsDiffer"
    SHARED_MEMORY_TOO_SMALL = "SharedMemoryTooSmall"
    FILE_CHANGED = "FileChanged"
    # Operations.
    CRIU_FAILED = "CriuFailed"
    TOOL_FAILED = "ToolFailed"
    RESTORE_TIMEOUT = "RestoreTimeout"
    DUMP_TIMEOUT = "DumpTimeout"
    READY_TIMEOUT = "ReadyTimeout"
    INSUFFICIENT_HOST_MEMORY = "InsufficientHostMemory"
    GPU_UNAVAILABLE = "GpuUnavailable"
    GPU_LOCK_TIMEOUT = "GpuLockTimeout"
    GPU_CHECKPOINT_FAILED = "GpuCheckpointFailed"
    GPU_RESTORE_FAILED = "GpuRestoreFailed"
    GPU_STATE_UNSUPPORTED = "GpuStateUnsupported"
    GPU_FILE_OPEN = "GpuFileOpen"
    HUGETLB = "HugetlbMemory"
    IO_URING = "IoUring"
    IPC_SHARED = "SharedIpcObjects"
    IPC_CONFLICT = "IpcConflict"
    PROCESSES_OUTSIDE_TREE = "ProcessesOutsideTree"
    WORKER_DIED = "WorkerDied"
    NEVER_READY = "NeverReady"
    NOT_CAPTURABLE = "NotCapturable"
    SECRETS_NOT_ACKNOWLEDGED = "SecretsNotAcknowledged"
    QUIESCE_FAILED = "QuiesceFailed"
    WAKE_FAILED = "WakeFailed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    STORE_FAILED = "StoreFailed"
    STORE_DENIED = "StoreDenied"
    STORE_UNREACHABLE = "StoreUnreachable"
    NOT_ENOUGH_SPACE = "NotEnoughSpace"
    UNSUPPORTED = "Unsupported"
    # Admission.
    COMMAND_UNKNOWN = "CommandUnknown"
    CONTAINER_UNKNOWN = "ContainerUnknown"
    SHARED_PROCESS_NAMESPACE = "SharedProcessNamespace"
    HOST_NAMESPACE = "HostNamespace"
    USER_NAMESPACE = "UserNamespace"
    TTY = "TerminalRequested"
    SANDBOXED_RUNTIME = "SandboxedRuntime"
    MOUNT_PATH_TAKEN = "MountPathTaken"
    # Objects and configuration.
    INVALID_SPEC = "InvalidSpec"
    INVALID_CONFIG = "InvalidConfig"
    JOB_FAILED = "JobFailed"
    POD_REFUSED = "PodRefused"
    TOO_MANY_VARIANTS = "TooManyVariants"
    RESULT_MISSING = "ResultMissing"
    API_FAILED = "ApiFailed"
    REGISTRY_FAILED = "RegistryFailed"
    INTERNAL_ERROR = "InternalError"


LOST_ARTIFACT = frozenset(
    {
        Reason.ARTIFACT_MISSING,
        Reason.ARTIFACT_CORRUPT,
        Reason.DIGEST_MISMATCH,
        Reason.ARTIFACT_UNREADABLE,
    }
)
"""Reasons that say that an artifact itself is gone or damaged."""
