"""Workloads of tests/conformance: captured on one node, restored on the other, compared.

In CI those for which a cluster is not the same as tests/conformance/test_sandbox.py, where every
other one is captured, restored and compared as here; all with `scripts/test --all`. Several are
under way at once; each test waits for its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pytest

from chrek import procfs
from conformance import harness, view, workload
from e2e import node, place, tiny
from showcase import cluster, setup

AT_ONCE = 6
MEMORY = {"medium": "Memory"}
SOURCE, TARGET = "n1", "n2"
MADE_SECONDS, READY_SECONDS = 120, 120
IN_CI = {
    # The container runtime's credentials, filters, limits and priorities.
    "cred_child_without_rights", "cred_limits_raised", "cred_priority", "cred_seccomp_threads",
    "cred_user",
    # Its file systems: layers of the image, what it masks, what it mounts.
    "fd_deleted", "fd_locks", "fd_pty", "fd_special", "files_opaque", "files_root", "files_shm",
    "ipc_posix_queue", "ipc_shared_memory", "memory_memfd", "memory_shm_file",
    # Its limits of memory and its score for when there is none.
    "memory_locked", "memory_private", "proc_oom",
    # The pod's network and address, which the new pod does not have.
    "net_device", "net_inside", "net_netlink", "net_outside", "net_outside_half_closed",
    "net_own_address", "net_reconnecting", "unix_connected", "unix_rights",
    # PIDs of a pod.
    "proc_tree", "proc_zombie", "signal_pending",
    # Clocks of a node that is ahead; in the sandbox it is behind.
    "time_absolute", "time_clocks", "time_event_loop", "time_new_processes", "time_sleeps",
    "time_timerfd_clocks", "time_timers",
}  # fmt: skip
"""Besides those that need a pod."""

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Worker(tiny.Worker):
    """A workload as a pod."""

    workload: workload.Workload | None = None

    @property
    def one(self) -> workload.Workload:
        assert self.workload is not None
        return self.workload

    def container(self) -> Object:
        options = self.one.options
        python, flag, *arguments = self.one.command
        base = super().container()
        base |= {
            "command": [python, flag],
            "args": arguments,
            "env": [{"name": name, "value": value} for name, value in options.env.items()],
            "readinessProbe": {
                "httpGet": {"path": "/health", "port": harness.PORT},
                "periodSeconds": 1,
            },
            "volumeMounts": [
                {"name": f"volume-{number}", "mountPath": path}
                for number, path in enumerate(options.volumes)
            ],
            "securityContext": self._security(),
        }
        base["resources"]["limits"]["memory"] = "512Mi"
        return merged(base, options.container)

    def _security(self) -> Object:
        options = self.one.options
        if options.user == 0:
            return {"runAsUser": 0, "runAsNonRoot": False}
        return {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": list(options.capabilities)},
            "readOnlyRootFilesystem": options.read_only_root,
        }

    def spec(self) -> Object:
        options = self.one.options
        made = super().spec()
        made["securityContext"]["supplementalGroups"] = list(options.groups)
        if options.user == 0:
            made["securityContext"]["runAsNonRoot"] = False
        made["volumes"] = [
            {
                "name": f"volume-{number}",
                "emptyDir": {"medium": "Memory"} if kind == "memory" else {},
            }
            for number, kind in enumerate(options.volumes.values())
        ]
        text = json.dumps(options.spec).replace("IMAGE", setup.image(self.image))
        return merged(made, json.loads(text))


def merged(base: Object, more: Any) -> Object:
    """Lists are joined, mappings merged."""
    made = dict(base)
    for key, value in dict(more).items():
        if isinstance(value, list) and isinstance(made.get(key), list):
            made[key] = made[key] + value
        elif isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = merged(made[key], value)
        else:
            made[key] = value
    return made


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is visible of a workload before the capture and after the restore."""

    answers: Object
    view: Object
    strangers: tuple[str, ...] = ()


class Runs:
    """All workloads, several at once."""

    def __init__(self, here: place.Place) -> None:
        self._here = here
        self._pool = futures.ThreadPoolExecutor(AT_ONCE)
        self._started: dict[str, futures.Future[tuple[Seen, Seen]]] = {}

    def start(self, names: list[str]) -> None:
        for name in names:
            self._started[name] = self._pool.submit(self._run, workload.load(name))

    def result(self, name: str) -> tuple[Seen, Seen]:
        if name not in self._started:
            self.start([name])
        return self._started[name].result()

    def stop(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, one: workload.Workload) -> tuple[Seen, Seen]:
        here = self._here
        worker = Worker(f"conformance/{one.name}", workload=one)
        if one.options.objects:
            here.live.apply(*one.options.objects, namespace=here.namespace)
        here.live.apply(worker.checkpoint(node=SOURCE, backoff=0), namespace=here.namespace)
        try:
            source = self._source(worker)
            answers = self._ask(source)
            before = Seen(answers, view.settled(init_of(source)))
            answer = here.live.pod_request(source, harness.PORT, "/release", {})
            assert answer.status == 200, answer.text
            here.wait_phase(worker.hash, "Ready", timeout=READY_SECONDS)
            name = f"conformance-{one.name.replace('_', '-')}"
            with here.pod(worker.pod(name, node=TARGET), timeout=READY_SECONDS) as pod:
                place.assert_warm(here.live, pod)
                # First from outside: what is asked changes what is asked.
                init = init_of(pod)
                seen, strangers = view.settled(init), tuple(view.namespaces(init))
                return before, Seen(self._ask(pod), seen, strangers)
        finally:
            here.live.kubectl(
                "delete", f"--namespace={here.namespace}", f"dckpt/{worker.hash}", "--wait=false",
                "--ignore-not-found",
            )  # fmt: skip

    def _source(self, worker: Worker) -> Object:
        """The checkpoint job's pod once its workload has made its state."""
        selector = f"nvidia.com/chrek-checkpoint-hash={worker.hash}"
        said = ""

        def made() -> Object | None:
            nonlocal said
            for pod in self._here.pods_of(selector):
                if pod["status"].get("phase") != "Running":
                    said = str(pod["status"])
                    continue
                with contextlib.suppress(OSError, http.client.HTTPException):
                    answer = self._here.live.pod_request(pod, harness.PORT, "/ready")
                    said = answer.text
                    if answer.status == 200:
                        assert answer.text == "made", answer.text
                        return pod
            return None

        found: Object = cluster.wait_until(
            made, lambda: f"{worker.model} has made its state: {said}", timeout=MADE_SECONDS
        )
        return found

    def _ask(self, pod: Object) -> Object:
        answer = self._here.live.pod_request(pod, harness.PORT, "/check")
        assert answer.status == 200, answer.text
        answers: Object = json.loads(answer.text)
        assert "failed" not in answers, answers["failed"]
        return answers


def init_of(pod: Object) -> int:
    """PID 1 of the worker's container, as this machine counts."""
    for pid in node.processes(pod):
        if "chrek-init" in " ".join(node.command(pid)[:1]) and procfs.status(pid).nspids[-1] == 1:
            return pid
    raise AssertionError(f"no chrek-init among {[node.command(p) for p in node.processes(pod)]}")


@pytest.fixture(scope="module")
def runs(here: place.Place, request: pytest.FixtureRequest) -> Iterator[Runs]:
    made = Runs(here)
    wanted = {item.callspec.params["name"] for item in request.session.items if of_this(item)}
    made.start(sorted(wanted))
    yield made
    made.stop()


def of_this(item: pytest.Item) -> bool:
    return item.path.name == "test_conformance.py" and hasattr(item, "callspec")


def cases() -> Iterator[Any]:
    for name in workload.names():
        both = name not in IN_CI and not workload.load(name).options.pod_only
        yield pytest.param(name, marks=[pytest.mark.heavy] if both else [])


def test_those_of_ci_are_there() -> None:
    assert set(workload.names()) >= IN_CI


@pytest.mark.parametrize("name", list(cases()))
@pytest.mark.timeout(900)
def test_it_comes_back_on_the_other_node(runs: Runs, name: str) -> None:
    one = workload.load(name)
    before, after = runs.result(name)
    one.compare(before.answers, after.answers)
    found = [line for line in view.differences(before.view, after.view) if not one.tolerates(line)]
    assert not found, "\n".join(found)
    assert not after.strangers
