"""Which GPUs the kubelet gave to a container: its PodResources API, v1, on a socket of the node.

Only `List` is used, which every kubelet has since 1.20. It knows pods by name, not by UID, and so
does this module.
Source: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
(monitoring device plugin resources); device ids are those of NVIDIA's device plugin
(`GPU-…`, shared `GPU-…::3`, `MIG-…`), of GKE's (`nvidia0`, `nvidia0/vgpu1`, `nvidia0/gi0`) and of
NVIDIA's DRA driver (`gpu-0`, `gpu-0-mig-…`).
"""

from __future__ import annotations

import pathlib
import re
import threading
from collections.abc import Iterator

import grpc

from chrek import log
from chrek.cuda import allocation
from chrek.cuda import podresources_pb2 as pb

SOCKET = pathlib.Path("/var/lib/kubelet/pod-resources/kubelet.sock")
TIMEOUT_SECONDS = 3.0

_METHOD = "/v1.PodResourcesLister/List"
_RESOURCES = "nvidia.com/"
"""The device plugin lets an administrator name resources, but only below this."""
_DRIVER = "gpu.nvidia.com"
_UUID = re.compile(r"(GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:::\d+)?", re.IGNORECASE)
_PART = re.compile(r"(MIG-[^:]+)(?:::\d+)?")
_NUMBER = re.compile(r"(?:nvidia|gpu-)(\d+)(?:/vgpu\d+)?")
_NUMBERED_PART = re.compile(r"(nvidia\d+/gi\d+|gpu-\d+-mig-[^/]+)(?:/vgpu\d+)?")
_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.enable_http_proxy", 0),
)

LOG = log.get(__name__)


class Client:
    """Asks the kubelet of this node; any thread may.

    Args:
        socket: the kubelet's; the directory that it is in must be mounted, not the socket, because
            a kubelet that starts makes another one.
        timeout_seconds: for one question.
    """

    def __init__(
        self, socket: pathlib.Path = SOCKET, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self._socket = socket
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._silent = False

    def devices(self, namespace: str, pod: str, container: str) -> list[str] | None:
        """The GPUs that were given to a container, each once.

        Returns:
            UUIDs, `minor:N` of a GPU that is known by the number of its device file, or `MIG-…` of
            a part of one; None when the kubelet does not answer, does not know the container, or
            knows two of this name that have different GPUs.
        """
        listed = self._list()
        if listed is None:
            return None
        found = [
            list(dict.fromkeys(_gpus(resources)))
            for listed_pod in listed.pod_resources
            if (listed_pod.namespace, listed_pod.name) == (namespace, pod)
            for resources in listed_pod.containers
            if resources.name == container
        ]
        # An older kubelet lists a pod that has ended beside the one that took its name.
        if not found or any(sorted(other) != sorted(found[0]) for other in found):
            return None
        return found[0]

    def _list(self) -> pb.ListResponse | None:
        # A channel for each call: on one that failed, the next would wait for its back-off to end.
        with grpc.insecure_channel(f"unix:{self._socket}", options=_OPTIONS) as channel:
            call = channel.unary_unary(
                _METHOD,
                request_serializer=pb.ListRequest.SerializeToString,
                response_deserializer=pb.ListResponse.FromString,
            )
            try:
                answer: pb.ListResponse = call(pb.ListRequest(), timeout=self._timeout_seconds)
            except grpc.RpcError as err:
                self._tell(err)
                return None
        self._tell(None)
        return answer

    def _tell(self, err: grpc.RpcError | None) -> None:
        """Log that it fell silent, or that it answers again: not every time."""
        with self._lock:
            changed, self._silent = self._silent != (err is not None), err is not None
        if not changed:
            return
        if err is None:
            LOG.info("the kubelet tells GPUs again", socket=str(self._socket))
            return
        LOG.warning(
            "the kubelet does not tell which GPUs a container has: its device files do",
            socket=str(self._socket),
            code=err.code().name,
            details=err.details(),
        )


def _gpus(resources: pb.ContainerResources) -> Iterator[str]:
    for devices in resources.devices:
        if devices.resource_name.startswith(_RESOURCES):
            for device in devices.device_ids:
                yield from _gpu(device)
    for claimed in resources.dynamic_resources:
        for resource in claimed.claim_resources:
            if resource.driver_name == _DRIVER:
                yield from _gpu(resource.device_name)


def _gpu(device: str) -> Iterator[str]:
    """Nothing for what is no GPU, such as a network device or a GPU for virtual machines."""
    if match := _UUID.fullmatch(device) or _PART.fullmatch(device):
        yield match[1]
    elif match := _NUMBERED_PART.fullmatch(device):
        yield allocation.PART + match[1]
    elif match := _NUMBER.fullmatch(device):
        yield allocation.MINOR + match[1]
