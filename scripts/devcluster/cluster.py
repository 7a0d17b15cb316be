"""The whole cluster: bringing it up, taking it down, and single nodes in between.

Every command that changes something holds one lock. `up` may be called at any time: it
starts what does not run. `down` removes what it finds, whatever state that is in.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from devcluster import (
    addresses,
    api,
    cache,
    certificates,
    cgroups,
    commands,
    control_plane,
    dns,
    errors,
    images,
    loading,
    network,
    nodes,
    objects,
    prerequisites,
    processes,
    roots,
    steps,
    sysctls,
    tools,
    trees,
)

LOCK_SECONDS = 1200.0
READY_SECONDS = 120.0
API_NAME = f"kubernetes.default.svc.{addresses.CLUSTER_DOMAIN}"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The one cluster of a cache folder."""

    where: cache.Cache
    records: processes.Records

    @classmethod
    def of(cls, where: cache.Cache) -> Cluster:
        return cls(where, processes.Records(where.run, f"{where.cluster}"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; wait for another command that has it."""
        self.where.root.mkdir(parents=True, exist_ok=True)
        with self.where.lock.open("w") as lock:

            def taken() -> bool:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True

            if not taken():
                steps.say("waiting for another scripts/cluster command to end")
                steps.wait_until(
                    taken, f"the lock {self.where.lock} is free",
                    timeout_seconds=LOCK_SECONDS, interval_seconds=0.5,
                )  # fmt: skip
            yield

    def client(self) -> api.Client:
        """A client of the API server.

        Raises:
            ClusterError: the cluster has no certificates, so it is not up.
        """
        if not (self.where.pki / "complete").exists():
            raise errors.ClusterError("the cluster is not up", hint="scripts/cluster up")
        return api.Client(self.where.pki, certificates.ADMIN)

    def up(self, wanted: list[addresses.Node]) -> None:
        """Start whatever of the cluster does not run, and wait until it serves."""
        tools.ensure(self.where, tools.FOR_CLUSTER)
        prerequisites.ensure(prerequisites.FOR_CLUSTER)
        if nodes.running(self.records) and not roots.node_is_current(self.where):
            raise errors.ClusterError(
                "the running nodes stand on a root file system that has to be built anew",
                hint="scripts/cluster down, then up",
            )
        roots.ensure_node(self.where)
        prerequisites.load_kernel_modules()
        if not (self.where.pki / "complete").exists() and not self.records.names():
            # Logs of an earlier cluster would be mistaken for this one's.
            shutil.rmtree(self.where.log, ignore_errors=True)
        for folder in (self.where.log, self.where.run, self.where.volumes, self.where.share):
            folder.mkdir(parents=True, exist_ok=True)
        with steps.step("Make certificates, the network, and images"):
            sysctls.raise_limits(self.where)
            certificates.ensure(self.where)
            network.ensure()
            loading.keep(self.where, images.read(images.write_pause(self.where)))
        with steps.step("Start the control plane"):
            control_plane.start_api(self.where, self.records)
            # containerd comes up beside the API server; the kubelets wait for it.
            since = {node: self._start_node(node) for node in wanted}
            client = control_plane.wait_for_api(self.where, self.records)
            control_plane.start_companions(self.where, self.records)
            objects.apply_addons(client)
        with steps.step(f"Join {', '.join(node.name for node in wanted)}"):
            self._join(client, since)
        with steps.step("Wait for DNS"):
            steps.wait_until(
                lambda: dns.resolve(API_NAME) == [addresses.KUBERNETES_SERVICE],
                f"the cluster's DNS resolves {API_NAME}",
                timeout_seconds=READY_SECONDS,
                explain=lambda: control_plane.log_tail(self.where, control_plane.DNS),
            )
        control_plane.check(self.where, self.records)

    def start(self, node: addresses.Node) -> None:
        """Start one node of the running cluster, new or stopped."""
        client = self.client()
        with steps.step(f"Start node {node.name}"):
            self._join(client, {node: self._start_node(node)})

    def stop(self, node: addresses.Node) -> None:
        """End one node as a power loss does."""
        nodes.init_of(self.records, node)
        with steps.step(f"Stop node {node.name}"):
            nodes.stop(self.records, node)
            network.route_services(nodes.running(self.records))

    def load(self, wanted: str) -> images.Archive:
        """Load an image into every node, of now and to come."""
        if not (self.where.pki / "complete").exists():
            raise errors.ClusterError("the cluster is not up", hint="scripts/cluster up")
        with steps.step(f"Load {wanted}"):
            scratch = self.where.cluster / "exports"
            try:
                return loading.load(self.where, self.records, images.locate(wanted, scratch))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def down(self) -> None:
        """End and remove everything but the builds, the shared folder, and the logs."""
        if not (self._state() or network.links() or self.records.stragglers()):
            steps.say("the cluster is not up")
            return
        with steps.step("Stop nodes"):
            self._stop_nodes()
        with steps.step("Stop the control plane"):
            named = [self.records.load(name) for name in self.records.names()]
            # The API server takes its time to end well, and nothing of it is kept.
            self.records.stop([process for process in named if process], grace_seconds=0.2)
            self.records.stop(self.records.stragglers(), grace_seconds=0.2)
        with steps.step("Remove the network, cgroups, and state"):
            network.remove()
            for node in addresses.all_nodes():
                if cgroups.present(node.cgroup):
                    cgroups.remove(node.cgroup)
            sysctls.restore(self.where)
            self._remove_state()

    def _stop_nodes(self) -> None:
        known = {*nodes.recorded(self.records), *_node_folders(self.where.nodes)}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            jobs = [pool.submit(nodes.stop, self.records, node) for node in sorted(known)]
            for job in jobs:
                job.result()

    def _state(self) -> list[Path]:
        """What there is in the cluster's folder besides the logs."""
        entries = self.where.cluster.iterdir() if self.where.cluster.exists() else []
        return [entry for entry in entries if entry != self.where.log]

    def _remove_state(self) -> None:
        for entry in self._state():
            if entry.is_dir():
                trees.remove(entry)
            else:
                entry.unlink()

    def _start_node(self, node: addresses.Node) -> float:
        """Start a node unless it runs; return the Unix time from which its word counts."""
        if node in nodes.running(self.records):
            return 0.0
        since = time.time()
        nodes.start(self.where, self.records, node)
        return since

    def _join(self, client: api.Client, since: dict[addresses.Node, float]) -> None:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            jobs = [
                pool.submit(self._join_one, client, node, start) for node, start in since.items()
            ]
            for job in jobs:
                job.result()
        network.route_services(nodes.running(self.records))

    def _join_one(self, client: api.Client, node: addresses.Node, since: float) -> None:
        objects.apply_node(client, node)
        nodes.wait_for_containerd(self.where, self.records, node)
        loading.import_all(self.where, self.records, node)
        log = self.where.log / node.name / "kubelet.log"
        steps.wait_until(
            lambda: objects.ready_nodes(client, since=since).get(node.name, False),
            f"node {node.name} is ready", timeout_seconds=READY_SECONDS, interval_seconds=0.3,
            explain=lambda: f"the last lines of {log}:\n{commands.tail(log)}",
        )  # fmt: skip


def _node_folders(folder: Path) -> list[addresses.Node]:
    names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    return [addresses.Node.parse(name) for name in names]
