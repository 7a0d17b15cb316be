"""Environment that keeps workers with several GPUs from what the driver cannot capture.

The CUDA driver checkpoints one process at a time. Memory that several processes or GPUs share, as
NCCL makes it for its fast transports, has a capture refused or hang, so they are off in pods that
ask for more than one GPU: in the checkpoint job, and in every worker that may be restored from it,
for an engine that starts cold has to be what the captured one was. Communication goes over sockets
then, which is slow; whoever cannot have that writes `KEEP`.

Sources: NVIDIA/nvcf issue 1183 and pull 1184 (vLLM with 2 and 4 GPUs and TensorRT-LLM with 2, on
H100), NVIDIA/nccl issue 2350, NVIDIA/nccl pull 2340, NVIDIA/cuda-checkpoint issues 27, 30 and 56.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chrek import names

KEEP = "keep"
"""Value of the annotation that leaves the environment as it is."""

VARIABLES = {
    # Peer-to-peer transport: maps the memory of other GPUs, by CUDA IPC or cuMem.
    "NCCL_P2P_DISABLE": "1",
    # NVLink SHARP: multicast objects, on which the driver's checkpoint hangs.
    "NCCL_NVLS_ENABLE": "0",
    # Host memory of the shared memory transport by cuMem: a restore never returned.
    "NCCL_CUMEM_HOST_ENABLE": "0",
    # The shared memory transport: host memory that two processes have registered with CUDA.
    "NCCL_SHM_DISABLE": "1",
    # vLLM's all-reduce in torch's symmetric memory: IPC and multicast, beside NCCL.
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
}
"""Name -> value, with what each switches off."""

_GPU = "nvidia.com/gpu"
"""Beginning of the names of whole GPUs; `nvidia.com/gpu.shared` is one that is shared in time."""


def environment(
    container: Mapping[str, Any], annotations: Mapping[str, str] | None
) -> list[dict[str, str]]:
    """What a container lacks of it; nothing for one with a single GPU.

    Variables that the container has itself stay, whatever their value. Those of its `envFrom`
    cannot be seen, and are replaced.

    Args:
        annotations: of the pod.
    """
    if (annotations or {}).get(names.ANNOTATION_NCCL) == KEEP or not _may_have_several(container):
        return []
    own = {variable.get("name") for variable in container.get("env") or []}
    return [{"name": name, "value": value} for name, value in VARIABLES.items() if name not in own]


def _may_have_several(container: Mapping[str, Any]) -> bool:
    resources = container.get("resources") or {}
    if resources.get("claims"):
        # Of a DRA claim nobody here knows how many it stands for; one GPU alone uses no NCCL.
        return True
    counts = [v for k, v in (resources.get("limits") or {}).items() if k.startswith(_GPU)]
    return sum(map(_count, counts)) > 1


def _count(value: object) -> int:
    """Of an extended resource: a whole number; what is none the API server has refused."""
    try:
        return int(str(value))
    except ValueError:
        return 0
