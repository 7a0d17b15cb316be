"""GPUs that a device plugin gives to pods: their memory goes from one node to the other.

The driver is a stand-in (tests/gpu/standin), the kubelet and everything of chrek are not.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from chrek.operator import nccl
from e2e import gpu_plugin, node, place, test_helm, tiny
from gpu.standin import build
from showcase import cluster, commands, example, pods, setup

Object = dict[str, Any]

TEAM = "gpu-team"
NODES = ("n1", "n2")
MODEL = "NVIDIA H100 80GB HBM3"
MEBIBYTE = 1 << 20
GPU_BYTES = 128 * MEBIBYTE
BYTES = 40 * MEBIBYTE
DIGEST = hashlib.sha256(random.Random("0/0").randbytes(BYTES)).hexdigest()
"""Of what a workload fills its first GPU with."""
LABEL = "nvidia.com/dynamo-graph-deployment-name"
WORKLOAD = (Path(__file__).parents[1] / "gpu/workload.py").read_text()

DOOR = """
import os, socket, threading, time
def door():
    while 'DYN_READY_FOR_CHECKPOINT_FILE' in os.environ and not os.path.exists('/tmp/open'):
        time.sleep(0.05)
    global ballast
    ballast = os.urandom(int(os.environ['BALLAST']) << 20)
    server = socket.create_server(('', 8001))
    while True:
        server.accept()[0].close()
threading.Thread(target=door, daemon=True).start()
"""
"""Before the workload: in a checkpoint job it is ready when a test says so."""


@dataclasses.dataclass(frozen=True)
class Worker(tiny.Worker):
    """The workload of tests/gpu.

    Attributes:
        gpus: how many it asks for; with several it has a process for each.
        memory: limit of its container, in MiB.
        ballast: MiB that it takes of it when it is about to be ready.
    """

    gpus: int = 1
    memory: int = 512
    ballast: int = 0

    def container(self) -> Object:
        variables = {
            "BYTES": BYTES,
            "HOST": "",
            "GPUS": ",".join(map(str, range(self.gpus))),
            "PROCESSES": int(self.gpus > 1),
            "BALLAST": self.ballast,
        }
        return {
            **super().container(),
            "command": ["python3", "-c", DOOR + WORKLOAD],
            "args": [],
            "env": [{"name": name, "value": str(value)} for name, value in variables.items()],
            "ports": [{"containerPort": 8000}],
            "readinessProbe": {"tcpSocket": {"port": 8001}, "periodSeconds": 1},
            "resources": {
                "requests": {"cpu": "10m", "memory": "32Mi"},
                "limits": {
                    "cpu": "2",
                    "memory": f"{self.memory}Mi",
                    gpu_plugin.RESOURCE: str(self.gpus),
                },
            },
        }


ONE = Worker("gpu/one")
BOTH = Worker("gpu/both", gpus=2)
SERVING = Worker("gpu/serving")
# Room for less than the 44 MiB that its GPU memory takes, and yet for what it needs to start.
CRAMPED = Worker("gpu/cramped", memory=160, ballast=110)


def on_node(name: str, script: str, *arguments: str, text: str = "") -> str:
    return commands.run(
        [setup.SCRIPTS / "cluster", "exec", name, "--", "sh", "-c", script, "sh", *arguments],
        text=text,
    ).stdout


class Site:
    """A node of the cluster that has GPUs."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        made = [
            build.Gpu(
                minor=minor,
                uuid=build.gpu_uuid(f"e2e/{name}/{minor}"),
                bytes=GPU_BYTES,
                model=MODEL,
            )
            for minor in range(2)
        ]
        self.node = build.Node(path / name, made)

    @property
    def conf(self) -> str:
        return (self.node.path / "node.conf").read_text()

    def put(self, file: str, text: str) -> None:
        """Replaces a file of the driver's directory, at once."""
        script = 'cd "$1" && cat >.new && chmod 666 .new && mv .new "$2"'
        on_node(self.name, script, f"{gpu_plugin.HOST}/node", file, text=text)

    def fail(self, *lines: str) -> None:
        self.put("fail", "".join(f"{line}\n" for line in lines))

    def pending(self) -> list[str]:
        """Failures that are not used up."""
        return on_node(self.name, 'cat "$1"', f"{gpu_plugin.HOST}/node/fail").splitlines()


@dataclasses.dataclass(frozen=True)
class Team(place.Place):
    """A release whose nodes have GPUs."""

    sites: Mapping[str, Site] = dataclasses.field(default_factory=dict)

    def ask(self, pod: Object, words: str) -> str:
        """What the workload in a pod answers."""
        answer = self.live.pod_request(pod, 8000, "/" + words.replace(" ", "/"))
        assert answer.status == 200, answer.text
        return answer.text.strip()

    def allocated(self, on: str) -> list[list[str]]:
        """What the kubelet of a node had the plugin give to containers, the newest last."""
        (pod,) = [p for p in self.pods_of("app=standin-gpu") if pods.node(p) == on]
        said = self.live.kubectl("logs", f"--namespace={self.namespace}", pods.name(pod))
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        return [sorted(line["allocated"]) for line in lines if "allocated" in line]

    @contextlib.contextmanager
    def driver(self, on: str, version: str) -> Iterator[None]:
        """A node has another driver: nobody uses the GPUs while a driver is replaced."""
        site = self.sites[on]
        try:
            self._load(site, site.conf.replace(site.node.driver, version))
            yield
        finally:
            self._load(site, site.conf)

    def _load(self, site: Site, conf: str) -> None:
        site.put("node.conf", conf)
        for pid in node.processes(node.agent(self.live, self.namespace, site.name)):
            if "chrek.cuda.helper" in node.command(pid):
                os.kill(pid, signal.SIGKILL)

    def source(self, worker: Worker) -> Object:
        """The pod of a checkpoint job, once its workload answers."""
        selector = (
            f"nvidia.com/chrek-checkpoint-hash={worker.hash},nvidia.com/chrek-is-checkpoint-source"
        )

        def answers() -> Object | None:
            for pod in self.pods_of(selector):
                if pods.container(pod).get("state", {}).get("running"):
                    answer = self.live.pod_request(pod, 8000, "/nonce")
                    return pod if answer.status == 200 else None
            return None

        def what() -> str:
            found = [pods.describe(self.live, TEAM, pods.name(p)) for p in self.pods_of(selector)]
            return "\n".join(["the worker of the job answers", *found])

        found: Object = cluster.wait_until(answers, what, timeout=60)
        return found


def daemon_set() -> Object:
    def at(name: str, path: str) -> Object:
        return {"name": name, "mountPath": path}

    def directory(name: str, path: str) -> Object:
        return {"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}

    container: Object = {
        "name": "main",
        "image": setup.image("chrek"),
        "command": ["python3", "/etc/standin-gpu/gpu_plugin.py", "serve"],
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [
            at("given", "/etc/standin-gpu"),
            at("state", "/standin-gpu"),
            at("sockets", "/var/lib/kubelet/device-plugins"),
        ],
    }
    spec = {
        "terminationGracePeriodSeconds": 3,
        "automountServiceAccountToken": False,
        "initContainers": [
            {**container, "name": "lay-out", "command": [*container["command"][:2], "lay-out"]}
        ],
        "containers": [container],
        "volumes": [
            {"name": "given", "configMap": {"name": "standin-gpu"}},
            directory("state", gpu_plugin.HOST),
            directory("sockets", "/var/lib/kubelet/device-plugins"),
        ],
    }
    labels = {"app": "standin-gpu"}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "standin-gpu"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


@contextlib.contextmanager
def device_plugin(live: cluster.Cluster, sites: Mapping[str, Site]) -> Iterator[None]:
    """GPUs on the nodes; at the end nothing of them is left there."""
    libraries = build.build()
    given = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "standin-gpu"},
        "data": {
            "gpu_plugin.py": Path(gpu_plugin.__file__).read_text(),
            **{f"{site.name}.conf": site.conf for site in sites.values()},
        },
        "binaryData": {
            name: base64.b64encode((libraries / name).read_bytes()).decode()
            for name in gpu_plugin.NAMES
        },
    }
    team = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM}}
    live.apply(team, namespace="default")
    try:
        live.apply(given, daemon_set(), namespace=TEAM)
        # Drivers are there; that the API server tells of the GPUs takes longer.
        place.Place(live, TEAM).ready_pods("app=standin-gpu", len(sites))
        yield
    finally:
        live.kubectl("delete", "namespace", TEAM, "--timeout=90s", timeout=100)
        for name in sites:
            on_node(name, 'rm -rf "$1"', gpu_plugin.HOST)


def wait_allocatable(live: cluster.Cluster) -> None:
    def counts() -> list[object]:
        found = [live.get(f"/api/v1/nodes/{name}") or {} for name in NODES]
        return [one["status"]["allocatable"].get(gpu_plugin.RESOURCE) for one in found]

    cluster.wait_until(
        lambda: counts() == ["2"] * len(NODES),
        lambda: (
            f"two GPUs on each node: {counts()}\n"
            + live.kubectl("logs", f"--namespace={TEAM}", "-l", "app=standin-gpu", check=False)
        ),
        timeout=60,
    )


@pytest.fixture(scope="module")
def there(live: cluster.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A release of its own, whose agents know where the stand-in is."""
    path = tmp_path_factory.mktemp("gpus")
    sites = {name: Site(name, path) for name in NODES}
    on_host = f"/proc/1/root{gpu_plugin.HOST}"
    variables = {"CHREK_STANDIN_NODE": f"{on_host}/node", "PYTHONPATH": f"{on_host}/site"}
    values = {
        "storage.pvc.size": json.dumps("5Gi"),
        "agent.gpu.driverRoots": json.dumps([f"{gpu_plugin.HOST}/driver"]),
        "agent.extraEnv": json.dumps(
            [{"name": name, "value": value} for name, value in variables.items()]
        ),
    }
    with device_plugin(live, sites):
        try:
            setup.install(live, namespace=TEAM, values=values)
            wait_allocatable(live)
            found = Team(live, TEAM, values, sites)
            # It fails, after some attempts, while others are tested.
            live.apply(CRAMPED.checkpoint(node="n2", backoff=0), namespace=TEAM)
            found.exec(found.source(CRAMPED), "touch", "/tmp/open")
            yield found
        finally:
            live.helm("uninstall", setup.RELEASE, f"--namespace={TEAM}", "--wait", check=False)


@dataclasses.dataclass(frozen=True)
class Captured:
    """What a worker had in its memory, and what it was given, when it was captured."""

    worker: Worker
    answers: Mapping[str, str]
    uuids: list[str]
    pod: Object
    checkpoint: Object


def captured(there: Team, worker: Worker) -> Captured:
    there.live.apply(worker.checkpoint(node="n1", backoff=0), namespace=TEAM)
    pod = there.source(worker)
    # What no worker that starts cold has.
    there.ask(pod, "add 7")
    answers = {words: there.ask(pod, words) for words in ("digest", "pinned", "nonce")}
    uuids = there.ask(pod, "uuids").split()
    there.exec(pod, "touch", "/tmp/open")
    return Captured(worker, answers, uuids, pod, there.wait_phase(worker.hash, "Ready"))


@pytest.fixture(scope="module")
def one(there: Team) -> Captured:
    return captured(there, ONE)


@pytest.fixture(scope="module")
def both(there: Team, one: Captured) -> Captured:
    return captured(there, BOTH)


def assert_the_same_goes_on(there: Team, pod: Object, source: Captured) -> None:
    """The worker has the memory of the captured one, on GPUs that the kubelet gave to its pod."""
    place.assert_warm(there.live, pod)
    assert {words: there.ask(pod, words) for words in source.answers} == source.answers
    uuids = there.ask(pod, "uuids").split()
    assert sorted(uuids) == there.allocated(pods.node(pod))[-1]
    assert not set(uuids) & set(source.uuids), "another node's GPUs"
    before = there.ask(pod, "calls")
    changed = there.ask(pod, "add 1")
    assert changed != source.answers["digest"]
    cluster.wait_until(lambda: there.ask(pod, "calls") != before, "it works on", timeout=5)


def test_memory_of_a_gpu_comes_back_on_the_other_node(there: Team, one: Captured) -> None:
    assert one.uuids == there.allocated("n1")[-1]
    variant = example.variant(one.checkpoint)
    assert (variant["gpu"], variant["node"]) == (MODEL, "n1")
    with there.pod(ONE.pod("one", node="n2")) as pod:
        assert_the_same_goes_on(there, pod, one)
    said = pods.agent_log(there.live, node.agent(there.live, TEAM, "n2"))
    assert "the kubelet does not tell" not in said


def variables(pod: Object) -> dict[str, str]:
    (main,) = [one for one in pod["spec"]["containers"] if one["name"] == "main"]
    return {variable["name"]: variable.get("value", "") for variable in main["env"]}


def test_two_gpus_with_a_process_for_each(there: Team, one: Captured, both: Captured) -> None:
    assert sorted(both.uuids) == sorted(there.sites["n1"].node.uuids)
    assert example.variant(both.checkpoint)["gpu"] == f"2x {MODEL}"
    with there.pod(BOTH.pod("both", node="n2")) as pod:
        assert_the_same_goes_on(there, pod, both)
        for each in (both.pod, pod):
            assert nccl.VARIABLES.items() <= variables(each).items()
    assert not nccl.VARIABLES.keys() & variables(one.pod).keys()


def test_another_driver(there: Team, one: Captured) -> None:
    site = there.sites["n2"]
    with there.driver("n2", "590.44.01"), there.pod(ONE.pod("driver", node="n2")) as pod:
        place.assert_cold(there.live, pod, {"GpuDriverDiffers"})
        fact = pods.reported(there.live, pod)
        assert (fact["status"], fact["reason"]) == ("False", "GpuDriverDiffers")
        assert site.node.driver in fact["message"]
        assert "590.44.01" in fact["message"]
        assert there.ask(pod, "nonce") != one.answers["nonce"]


def other_pod(size: int) -> Object:
    """A pod that has memory on all GPUs of n2, of which the kubelet knows nothing."""
    files = "nvidiactl nvidia-uvm nvidia0 nvidia1"
    script = f'for file in {files}; do mknod /dev/$file c 1 3; done; exec python3 -c "$SOURCE"'
    variables = {
        "SOURCE": WORKLOAD,
        "LD_LIBRARY_PATH": "/driver",
        "BYTES": str(size),
        "HOST": "",
        "PORT": "8000",
    }
    volumes = {
        gpu_plugin.IN_CONTAINER: f"{gpu_plugin.HOST}/node",
        "/driver": f"{gpu_plugin.HOST}/driver/{gpu_plugin.LIBRARIES}",
    }
    container = {
        "name": "main",
        "image": setup.image("chrek"),
        "command": ["sh", "-c", script],
        "securityContext": {"runAsUser": 0},
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": f"v{number}", "mountPath": path} for number, path in enumerate(volumes)
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "other"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "n2"},
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [
                {"name": f"v{number}", "hostPath": {"path": path}}
                for number, path in enumerate(volumes.values())
            ],
        },
    }


def test_a_gpu_whose_memory_others_have(there: Team, one: Captured) -> None:
    with (
        there.pod(other_pod(GPU_BYTES - BYTES // 2)),
        there.created(ONE.pod("crowded", node="n2")) as name,
    ):
        pod = cluster.wait_until(
            lambda: (
                place.condition(found, pods.RESTORED) and found
                if (found := there.live.get(pods.path(TEAM, name)))
                else None
            ),
            lambda: pods.describe(there.live, TEAM, name),
            timeout=30,
        )
        fact = place.restored(pod)
        assert (fact["status"], fact["reason"]) == ("False", "GpuMemoryTooSmall")
        assert any(uuid in fact["message"] for uuid in there.sites["n2"].node.uuids), fact


def test_too_little_host_memory_for_a_capture(there: Team) -> None:
    found = there.wait_phase(CRAMPED.hash, "Failed")
    ready = place.condition(found, "Ready")
    assert ready["reason"] == "InsufficientHostMemory", found["status"]
    assert re.search(r"set resources\.limits\.memory to at least \dGi", ready["message"]), ready


def test_helm_test_has_a_row_for_gpus(there: Team) -> None:
    said = test_helm.run(there)
    assert "Succeeded" in said, said
    row = test_helm.table(said)["gpu"]
    where = re.fullmatch(
        r"64 MiB came back, captured on (n[12]) \((GPU-\w+)\), restored on (n[12]) \((GPU-\w+)\)",
        row,
    )
    assert where, said
    assert where[1] != where[3]
    assert where[2] != where[4]


def test_an_agent_that_is_killed_with_a_worker_suspended(there: Team) -> None:
    site = there.sites["n1"]
    live = there.live
    site.fail("hang checkpoint 30 1")
    graph = SERVING.graph("gpu-serving", {"captureSource": "worker"}, node="n1")
    live.apply(graph, namespace=TEAM)
    pod = there.ready_pods(f"{LABEL}=gpu-serving", 1)[0]
    cluster.wait_until(lambda: not site.pending(), "a capture hangs", timeout=60)
    suspended = int(there.ask(pod, "calls"))
    time.sleep(0.3)
    assert int(there.ask(pod, "calls")) <= suspended + 1, "its call of CUDA waits"
    agent = node.agent(live, TEAM, "n1")
    live.kubectl(
        "delete", "pod", pods.name(agent), f"--namespace={TEAM}", "--grace-period=0", "--force"
    )
    cluster.wait_until(
        lambda: pods.name(node.agent(live, TEAM, "n1")) != pods.name(agent),
        "the next agent is ready",
        timeout=60,
    )
    cluster.wait_until(
        lambda: int(there.ask(pod, "calls")) > suspended + 10, "it works on", timeout=20
    )
    assert there.ask(pod, "digest") == DIGEST
    assert pods.container(pods.reload(live, pod))["restartCount"] == 0
    assert there.ask(pod, "uuids").split() == there.allocated("n1")[-1]
    # Nobody is in the way of the next attempt.
    there.wait_phase(SERVING.hash, "Ready")
    there.remove("dgd/gpu-serving")
