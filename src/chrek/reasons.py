"""What each Reason means and what to do: for `chrek explain` and the troubleshooting guide.

`TABLE` has every `names.Reason`, in its order. `meaning` completes "<Reason>: …"; `action` is what
a person does, empty where nothing is to be done. CHECKPOINT and POD in it stand for names that
whoever prints it may know.
"""

from __future__ import annotations

from typing import NamedTuple

from chrek import names


class Advice(NamedTuple):
    """One row of the guide."""

    meaning: str
    action: str = ""

    def of(self, *, checkpoint: str = "", pod: str = "") -> str:
        """The action with the names that are known."""
        known = self.action.replace("CHECKPOINT", checkpoint or "CHECKPOINT")
        return known.replace("POD", pod or "POD")


_R = names.Reason
_AGAIN = "make the checkpoint again: `chrek retry CHECKPOINT`"
_SAME = "give the checkpoint and the worker the same one, or make a checkpoint of this worker"
_WAIT = "nothing: it goes on by itself"

TABLE: dict[names.Reason, Advice] = {
    _R.RESTORED: Advice("the worker was restored from its checkpoint: the start was warm"),
    _R.CHECKPOINTED: Advice("the checkpoint was captured, pods of it start warm"),
    _R.WAITING_FOR_POD: Advice("the pod that is to be captured is not there yet", _WAIT),
    _R.WAITING_FOR_RESOURCES: Advice(
        "no node has room for the pod that is to be captured",
        "free a GPU or add a node; or set `startupPolicy: WaitForCheckpoint`, which lets the "
        "checkpoint go first, or `captureSource: worker`, which needs no further pod",
    ),
    _R.WAITING_FOR_WORKER: Advice(
        "a serving pod is to be captured, and none is Ready that opted in and started cold",
        "start a pod of the workload with the opt-in annotation, and wait until it is Ready",
    ),
    _R.WAITING_FOR_CHECKPOINT: Advice(
        "the service gets its pods when its checkpoint is Ready, as its startupPolicy says",
        "nothing; `startupPolicy: Immediate` starts pods cold meanwhile",
    ),
    _R.CAPTURING: Advice("the worker is being started for the capture, or is captured", _WAIT),
    _R.SHARED_ARTIFACT: Advice(
        "an older DynamoCheckpoint of the same identity has the artifact, and this one uses it"
    ),
    _R.SUSPECT: Advice(
        "workers restored from it died or never got Ready in three pods, so it is not used",
        "see why they ended (`kubectl logs --previous`), then " + _AGAIN,
    ),
    _R.PRUNED: Advice(
        "housekeeping has deleted the artifact: it was unused for too long, or the store was full",
        "nothing: a workload that asks for it has it made again; or now: `chrek retry CHECKPOINT`",
    ),
    _R.STORE_NEARLY_FULL: Advice(
        "the capture would pass the quota of the store, and nothing may be deleted",
        "raise `maxBytes` of housekeeping, set `unusedFor`, or delete DynamoCheckpoints; "
        "`chrek prune --dry-run` shows what holds the room",
    ),
    _R.BEING_DELETED: Advice(
        "the DynamoCheckpoint is being deleted",
        "create it again if pods are still to start warm",
    ),
    _R.DELETION_FAILED: Advice(
        "artifacts of a deleted DynamoCheckpoint could not be removed yet",
        "see the log of the Job that the message names; it is tried again",
    ),
    _R.AVAILABLE: Advice("all pods of the service are ready"),
    _R.WAITING_FOR_REPLICAS: Advice(
        "not all pods of the service are ready yet", "see its pods: `kubectl get pods`"
    ),
    _R.NAME_TAKEN: Advice(
        "an object that is not chrek's has the name that chrek needs",
        "delete or rename that object, or rename the service",
    ),
    _R.AGENT_UNAVAILABLE: Advice(
        "no agent answered on the pod's node, so the worker did not wait for it",
        "`chrek doctor` says which node has no ready agent; see `agent.nodeSelector` and "
        "`agent.tolerations`, and `agent.startupTaint` for fresh nodes",
    ),
    _R.AGENT_GONE: Advice(
        "the agent ended while it served this start",
        "see why (`kubectl logs --previous` of the agent); the next start asks again",
    ),
    _R.AGENT_SILENT: Advice(
        "the agent said nothing for longer than `agent.silenceTimeoutSeconds`",
        "see the agent's log: its node or its store may be overloaded",
    ),
    _R.AGENT_PROTOCOL: Advice(
        "chrek-init and the agent do not understand each other",
        "use images of one release: `image.tag` and `initImage.tag`; then replace the pod",
    ),
    _R.CHECKPOINT_NOT_FOUND: Advice(
        "the pod's namespace has no DynamoCheckpoint of the name or hash that the pod asks for",
        "correct the annotation nvidia.com/chrek-checkpoint (`chrek list` shows what there is), or "
        "make one: `chrek checkpoint deployment/NAME`",
    ),
    _R.CHECKPOINT_NOT_READY: Advice(
        "the checkpoint was not made yet when the pod started",
        "wait until it is Ready (`chrek show CHECKPOINT`): pods that start from then on are warm",
    ),
    _R.NO_VARIANT: Advice(
        "the checkpoint is Ready, but was captured with another image, command or GPU request",
        "wait if a capture for it is under way (`chrek show CHECKPOINT`); else give the pod the "
        "captured ones (`chrek diff POD CHECKPOINT`), or make a checkpoint of this worker",
    ),
    _R.PREVIOUS_RESTORE_FAILED: Advice(
        "a restore of this artifact failed in this pod before, so its container was started cold",
        "see the first failure in the pod's Events; a new pod tries again",
    ),
    _R.PEER_REFUSED: Advice(
        "who called the agent is not the container that kernel and API server say",
        "see the agent's log; if nobody tampered with the pod, restart it",
    ),
    _R.AGENT_STOPPING: Advice(
        "the node's agent was being stopped or updated", "nothing: the next start is warm"
    ),
    _R.BUSY: Advice(
        "too many restores were waiting for their turn on the node",
        "raise `agent.maxQueuedRestores`, or spread the pods over more nodes",
    ),
    _R.ARTIFACT_MISSING: Advice(
        "the artifact is not in the store",
        "it is made again once by itself where chrek made it; else " + _AGAIN,
    ),
    _R.ARTIFACT_CORRUPT: Advice(
        "the artifact's bytes are not those that were captured",
        "it is made again once by itself where chrek made it; else " + _AGAIN + ". `chrek verify` "
        "reads the others",
    ),
    _R.DIGEST_MISMATCH: Advice(
        "the artifact's manifest is not the one that the DynamoCheckpoint names",
        "find out who wrote into the store, then " + _AGAIN,
    ),
    _R.ARTIFACT_UNREADABLE: Advice(
        "the artifact was written by another version of chrek",
        "let the update of all agents end, then " + _AGAIN,
    ),
    _R.PRIVILEGE_MISMATCH: Advice(
        "the artifact asks for more privilege than the new container has",
        "give both the same securityContext; never take an artifact whose origin you do not know",
    ),
    _R.INCOMPATIBLE: Advice("the new container differs from the captured one", _SAME),
    _R.ARCHITECTURE_DIFFERS: Advice(
        "the node's processor is of another architecture", "make a checkpoint on this architecture"
    ),
    _R.PAGE_SIZE_DIFFERS: Advice(
        "the node's kernel has pages of another size", "make a checkpoint on nodes of this kind"
    ),
    _R.IMAGE_DIFFERS: Advice(
        "the image, its digest or files of it that the worker uses differ",
        "name the image by digest, the same in both; where a tag was moved, " + _AGAIN,
    ),
    _R.COMMAND_DIFFERS: Advice("`command` or `args` differ", _SAME),
    _R.ENVIRONMENT_DIFFERS: Advice("`env` of the container differs", _SAME),
    _R.SECRET_DIFFERS: Advice(
        "a Secret has another value than at the capture",
        _AGAIN + "; or put `secrets` into `agent.ignoreDifferences`",
    ),
    _R.CONFIG_MAP_DIFFERS: Advice(
        "a ConfigMap has another value than at the capture",
        _AGAIN + "; or put `configMaps` into `agent.ignoreDifferences`",
    ),
    _R.USER_DIFFERS: Advice("the user or the groups of the worker differ", "same securityContext"),
    _R.GPU_DIFFERS: Advice(
        "the GPUs are of another model or compute capability", "make a checkpoint on such GPUs"
    ),
    _R.GPU_COUNT_DIFFERS: Advice(
        "the pod, or its node, has another number of GPUs",
        "same GPU request, and nodes of one kind",
    ),
    _R.GPU_MEMORY_TOO_SMALL: Advice(
        "a GPU has less memory, or less of it free, than comes back",
        "look for other users with `nvidia-smi`; do not share GPUs of restored workers",
    ),
    _R.GPU_DRIVER_DIFFERS: Advice(
        "the node has another version of the NVIDIA driver",
        "bring all nodes to one version, then " + _AGAIN,
    ),
    _R.GPU_DRIVER_TOO_OLD: Advice(
        "the node's NVIDIA driver cannot do it", "install driver 580 or later"
    ),
    _R.GPU_PARTITIONED: Advice("MIG is on, and the driver wants whole GPUs", "use whole GPUs"),
    _R.CPU_FEATURES_MISSING: Advice(
        "the node's CPU lacks instructions that the worker found at its capture",
        "make the checkpoint on the oldest kind of node that shall restore it",
    ),
    _R.XSAVE_AREA_TOO_SMALL: Advice(
        "the node's CPU has less register state than that of the capture",
        "make the checkpoint on the oldest kind of node that shall restore it",
    ),
    _R.KERNEL_TOO_OLD: Advice(
        "the node's kernel is older than that of the capture",
        "upgrade the node, or make the checkpoint on the oldest kernel",
    ),
    _R.CRIU_TOO_OLD: Advice(
        "the node's agent has an older CRIU than that of the capture",
        "let the update of the agents end",
    ),
    _R.TIME_NAMESPACES_MISSING: Advice(
        "the node's kernel has no time namespaces", "use a kernel with CONFIG_TIME_NS"
    ),
    _R.MEMORY_LIMIT_TOO_LOW: Advice(
        "the worker had more memory at its capture than this container may have",
        "raise `resources.limits.memory` to that of the captured worker",
    ),
    _R.PIDS_LIMIT_TOO_LOW: Advice(
        "the worker had more tasks at its capture than this container may have",
        "raise the kubelet's `podPidsLimit` on this node",
    ),
    _R.MOUNTS_DIFFER: Advice("the mounts of the container differ", "same `volumeMounts`"),
    _R.SHARED_MEMORY_TOO_SMALL: Advice(
        "/dev/shm is smaller than that of the capture",  # noqa: S108 - the pod's own
        "give the worker the emptyDir at /dev/shm that was captured",
    ),
    _R.FILE_CHANGED: Advice(
        "a file on a volume, which the worker has open or mapped, has changed",
        "put the captured file back, or " + _AGAIN,
    ),
    _R.CRIU_FAILED: Advice(
        "CRIU could not dump or restore the processes",
        "the agent's log has CRIU's own words; look there for what the worker uses",
    ),
    _R.TOOL_FAILED: Advice("a program that the agent started failed", "see the agent's log"),
    _R.RESTORE_TIMEOUT: Advice(
        "the restore took longer than `agent.restoreTimeoutSeconds`",
        "see which step was slow in the agent's log; raise the limit for large workers",
    ),
    _R.DUMP_TIMEOUT: Advice(
        "the dump took longer than `agent.dumpTimeoutSeconds`",
        "see how fast the store is (`chrek doctor`); raise the limit for large workers",
    ),
    _R.READY_TIMEOUT: Advice(
        "the worker was not ready for its capture within `agent.readyTimeoutSeconds`",
        "see the log of the checkpoint job; raise the limit for slow models",
    ),
    _R.INSUFFICIENT_HOST_MEMORY: Advice(
        "device memory does not fit into the pod's memory limit or its node on its way",
        "raise the memory limit as the message says, or have the engine free its KV cache first",
    ),
    _R.GPU_UNAVAILABLE: Advice(
        "the NVIDIA driver or its helper does not answer, or the container has no GPU",
        "try `nvidia-smi` on the node, then `chrek doctor`",
    ),
    _R.GPU_LOCK_TIMEOUT: Advice(
        "work on the GPUs did not end within `agent.gpu.lockTimeoutSeconds`",
        "quiesce the engine before the capture (`spec.quiesce`)",
    ),
    _R.GPU_CHECKPOINT_FAILED: Advice(
        "the driver could not save a process's device memory; the worker runs on",
        "look up the driver's error, which the message has",
    ),
    _R.GPU_RESTORE_FAILED: Advice(
        "the driver could not bring device memory back; the container starts again, cold",
        "look up the driver's error, which the message has, and see what else uses the GPU",
    ),
    _R.GPU_STATE_UNSUPPORTED: Advice(
        "the worker uses unified memory, CUDA IPC or multicast, which the driver cannot save",
        "switch off what makes it",
    ),
    _R.GPU_FILE_OPEN: Advice(
        "a process has a GPU's device file open past CUDA, such as a monitor",
        "move that program into another container",
    ),
    _R.HUGETLB: Advice("the worker uses hugetlb pages", "use transparent huge pages"),
    _R.IO_URING: Advice(
        "the worker uses io_uring, which CRIU cannot dump",
        "switch it off in the worker, such as with UV_USE_IO_URING=0",
    ),
    _R.IPC_SHARED: Advice(
        "the worker has System V objects or message queues together with another container",
        "let only one container of the pod use them",
    ),
    _R.IPC_CONFLICT: Advice(
        "another container of the pod has the IPC objects that the worker needs",
        "let only one container of the pod use them",
    ),
    _R.PROCESSES_OUTSIDE_TREE: Advice(
        "the container had processes that are not the worker's", "end `kubectl exec` sessions in it"
    ),
    _R.WORKER_DIED: Advice(
        "the restored worker ended soon after its start",
        "see why: `kubectl logs --previous`; after three pods the checkpoint is Suspect",
    ),
    _R.NEVER_READY: Advice(
        "the restored worker did not pass its readiness probe in time",
        "see its log; a worker that held connections may need `spec.wake` or a hook",
    ),
    _R.NOT_CAPTURABLE: Advice(
        "serving pods could not be captured",
        "restart the pod, so that it starts under the agent that is there now",
    ),
    _R.SECRETS_NOT_ACKNOWLEDGED: Advice(
        "the worker's environment has values of Secrets, which would be in the artifact",
        "if that may be, annotate the DynamoCheckpoint or the pod with "
        'chrek.nvidia.com/acknowledge-secrets: "true"',
    ),
    _R.QUIESCE_FAILED: Advice(
        "the call of `spec.quiesce` failed before the capture",
        "correct it, then `chrek retry CHECKPOINT`",
    ),
    _R.WAKE_FAILED: Advice(
        "the call of `spec.wake` failed after the restore or the capture",
        "correct `spec.wake` of the DynamoCheckpoint: port, path or command",
    ),
    _R.DEADLINE_EXCEEDED: Advice(
        "the checkpoint job ran longer than its `activeDeadlineSeconds`",
        "raise `spec.job.activeDeadlineSeconds`",
    ),
    _R.STORE_FAILED: Advice(
        "the store could not be read or written",
        "`chrek doctor` tries it on every node; see the volume and its free space",
    ),
    _R.STORE_DENIED: Advice(
        "the server of the store refused the credentials",
        "see the Secret that the chart names, and its user's rights",
    ),
    _R.STORE_UNREACHABLE: Advice(
        "the server of the store did not answer",
        "see its address, its certificate and NetworkPolicies",
    ),
    _R.NOT_ENOUGH_SPACE: Advice(
        "the store has no room for this worker",
        "make the volume larger, or delete checkpoints that are not used (`chrek list`)",
    ),
    _R.UNSUPPORTED: Advice(
        "the pod, a process or the node uses what cannot be captured or restored",
        "remove what the message names",
    ),
    _R.COMMAND_UNKNOWN: Advice(
        "the container has no `command`, and nobody knows what its image starts",
        "write the worker's `command` into the pod's spec",
    ),
    _R.CONTAINER_UNKNOWN: Advice(
        "it is not clear which container is the worker",
        "call it main, or name it in the annotation nvidia.com/chrek-container",
    ),
    _R.SHARED_PROCESS_NAMESPACE: Advice(
        "the pod has `shareProcessNamespace`", "remove it from the pod's spec"
    ),
    _R.HOST_NAMESPACE: Advice(
        "the pod uses a namespace of its node", "remove hostPID, hostIPC and hostNetwork"
    ),
    _R.USER_NAMESPACE: Advice("the pod has `hostUsers: false`", "remove it from the pod's spec"),
    _R.TTY: Advice("the container has `tty: true`", "remove it from the container"),
    _R.SANDBOXED_RUNTIME: Advice(
        "the pod runs in a sandbox such as gVisor or Kata", "use an ordinary RuntimeClass"
    ),
    _R.MOUNT_PATH_TAKEN: Advice(
        "the pod has a volume, a mount or a container where chrek puts its own",
        "rename the volume or container `chrek`, or mount below another path than /chrek",
    ),
    _R.INVALID_SPEC: Advice("an object or value cannot be used", "correct what the message names"),
    _R.INVALID_CONFIG: Advice("chrek's own configuration cannot be used", "correct the values"),
    _R.JOB_FAILED: Advice(
        "the checkpoint job failed before its worker was captured",
        "see its log as the message says, correct the pod, then `chrek retry CHECKPOINT`",
    ),
    _R.POD_REFUSED: Advice(
        "the API server refuses the pod that is to be captured",
        "correct the pod template, the quota or the policy that the message names",
    ),
    _R.TOO_MANY_VARIANTS: Advice(
        "four variants of this identity are in use, and no more are kept",
        "end workloads of an older image or command, or give this one an identity of its own",
    ),
    _R.RESULT_MISSING: Advice(
        "the capture ended without a result that can be read",
        "see the log of the agent on the pod's node, then `chrek retry CHECKPOINT`",
    ),
    _R.API_FAILED: Advice("the Kubernetes API server refused or did not answer", "see the message"),
    _R.REGISTRY_FAILED: Advice("a registry refused or did not answer", "see the message"),
    _R.INTERNAL_ERROR: Advice(
        "chrek met an error that it does not know", "report it, with the agent's log"
    ),
}
"""Reason -> what it means and what to do."""

_ORDER = list(TABLE)
COMPATIBILITY = frozenset(
    [_R.NO_VARIANT, *_ORDER[_ORDER.index(_R.INCOMPATIBLE) : _ORDER.index(_R.FILE_CHANGED) + 1]]
)
"""Reasons that say that the new container differs from the captured one."""

UNKNOWN = Advice("a word that this version of chrek does not know", "use a command of its version")


def advice(reason: str) -> Advice:
    """What to say of a Reason, whoever wrote it."""
    try:
        return TABLE[names.Reason(reason)]
    except (ValueError, KeyError):
        return UNKNOWN
