"""The GPUs of this agent's node: which pods have which, by the kubelet and the NVIDIA driver."""

from __future__ import annotations

import functools
import pathlib
from typing import TYPE_CHECKING

from chrek import config, errors, log
from chrek.agent import objects
from chrek.cuda import client, library
from chrek.cuda import gpus as devices

if TYPE_CHECKING:
    from chrek.cuda import podresources

LOG = log.get(__name__)
SOCKET = "pod-resources/kubelet.sock"
"""Below the kubelet's root."""
SCRATCH = "driver"
"""Below the staging path: links to the driver's libraries."""


class NodeGpus:
    """One for each agent; nodes without a driver have one as well.

    Attributes:
        helper: asks the driver; raises GpuError where there is none.
    """

    def __init__(self, settings: config.AgentConfig) -> None:
        self._lock_timeout_seconds = settings.gpu.lockTimeoutSeconds
        self.helper = client.Helper(
            roots=settings.gpu.driverRoots or library.DRIVER_ROOTS,
            scratch=pathlib.Path(settings.stagingPath, SCRATCH),
        )
        self._socket = pathlib.Path(settings.kubeletRoot, SOCKET)

    def of(self, pod: objects.Pod) -> devices.Gpus | None:
        """Those of a pod's managed container; None where no driver can be used."""
        if not self.helper.available():
            return None
        return devices.Gpus(
            self.helper,
            # Asked in the thread that needs it, and only for a container with a GPU.
            allocated=lambda: self._kubelet.devices(pod.namespace, pod.name, pod.container),
            lock_timeout_seconds=self._lock_timeout_seconds,
        )

    @functools.cached_property
    def _kubelet(self) -> podresources.Client:
        # Only nodes with GPUs pay for grpc: a fifth of a second and 25 MB.
        from chrek.cuda import podresources

        return podresources.Client(self._socket)

    def warm_up(self) -> None:
        """Have the driver initialised before the first pod needs it: that takes seconds."""
        if self.helper.available():
            try:
                self.helper.start()
                node = self.helper.node()
            except errors.GpuError as err:
                LOG.warning("no gpus", error=str(err))
            else:
                LOG.info("gpus", driver=node.driver, count=len(node.gpus))

    def close(self) -> None:
        """End the driver's helper."""
        self.helper.close()
