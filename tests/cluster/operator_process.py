"""The operator of this checkout against the cluster, with the rights that the chart gives it.

It runs on the machine, outside the cluster; a Service without selector leads the API server to it.
Pods of these tests match no node: the tests say what becomes of them, as kubelet and agent would.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from cluster import kube

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATES = (
    "configmap",
    *(f"operator/{name}" for name in ("lease", "rbac", "secret", "serviceaccount", "webhook")),
)
NOWHERE = {"chrek.test/no-such-node": "true"}
IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm", "dtype": "bfloat16"}
HASH = "5941a4cb3c363457"
RESULT = {
    "uuid": "3f2c",
    "variant": "abcdef012345",
    "digest": "b3:00",
    "location": f"/checkpoints/{HASH}",
    "bytes": 1 << 30,
    "node": "n1",
    "image": "llama:1",
    "steps": {"dump": 1.25},
    "createdAt": "2026-01-29T10:05:00Z",
}


def install_crds(connected: kube.Kube) -> None:
    """The chart's CRDs, from this checkout."""
    folder = REPOSITORY / "charts" / "chrek" / "crds"
    connected.kubectl("apply", "--server-side", "--force-conflicts", "-f", os.fspath(folder))
    for name in ("dynamocheckpoints", "dynamographdeployments"):
        connected.kubectl("wait", "--for=condition=Established", f"crd/{name}.nvidia.com")


class Site:
    """What the operator needs in the cluster, as the chart renders it."""

    def __init__(self, connected: kube.Kube, folder: Path) -> None:
        self.kube = connected
        self.folder = folder
        self.ports = free_port(), free_port()
        objects = self._rendered()
        configuration = next(o for o in objects if o["kind"] == "ConfigMap")
        self.config = yaml.safe_load(configuration["data"]["operator.yaml"])
        self.config |= {"webhookPort": self.ports[0], "httpPort": self.ports[1]}
        self.config |= {"logLevel": "debug"}
        self.webhook = str(self.config["webhookName"])
        connected.apply(*objects, *self._service(self.config["webhookServiceName"]))

    def _rendered(self) -> list[dict[str, Any]]:
        argv = [
            os.fspath(self.kube.where.bin / "helm"),
            "template",
            "chrek",
            os.fspath(REPOSITORY / "charts" / "chrek"),
            f"--namespace={self.kube.namespace}",
            *(f"--show-only=templates/{name}.yaml" for name in TEMPLATES),
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [item for item in yaml.safe_load_all(done.stdout) if item]

    def _service(self, name: str) -> list[dict[str, Any]]:
        address = urllib.parse.urlsplit(self._cluster()["server"]).hostname
        port = {"name": "https", "port": self.ports[0], "protocol": "TCP"}
        metadata = {"namespace": self.kube.namespace}
        return [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {**metadata, "name": name},
                "spec": {"ports": [{"name": "https", "port": 443, "targetPort": self.ports[0]}]},
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    **metadata,
                    "name": f"{name}-outside",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": [port],
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            },
        ]

    def _cluster(self) -> dict[str, Any]:
        raw = yaml.safe_load(self.kube.where.kubeconfig.read_text())
        cluster: dict[str, Any] = raw["clusters"][0]["cluster"]
        return cluster

    def kubeconfig(self) -> Path:
        """One with the rights of the operator's service account, and no others."""
        token = self.kube.kubectl("create", "token", "chrek-operator").strip()
        raw = {
            "current-context": "operator",
            "contexts": [{"name": "operator", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": self._cluster()}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        path = self.folder / "kubeconfig"
        path.write_text(yaml.safe_dump(raw))
        return path

    def remove(self) -> None:
        """What does not go with the namespace."""
        for kind in ("mutatingwebhookconfiguration", "clusterrole", "clusterrolebinding"):
            name = self.webhook if kind.startswith("mutating") else f"{self.webhook}-operator"
            self.kube.kubectl("delete", kind, name, "--ignore-not-found")


class Operator:
    """One replica: a process. Use as a context manager."""

    def __init__(self, site: Site, *, name: str = "first", shift: int = 0) -> None:
        self._site = site
        self.name = name
        self.port = site.ports[1] if not shift else free_port()
        self.log = site.folder / f"{name}.log"
        config = {**site.config, "httpPort": self.port}
        if shift:
            config["webhookPort"] = free_port()
        self._config = site.folder / f"{name}.yaml"
        self._config.write_text(yaml.safe_dump(config))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Operator:
        self.start()
        self.ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGTERM)

    def start(self) -> None:
        environment = {
            **os.environ,
            "KUBECONFIG": os.fspath(self._site.kubeconfig()),
            "POD_NAME": self.name,
            "POD_NAMESPACE": self._site.kube.namespace,
        }
        program = "import sys; from chrek.cli import main; sys.exit(main())"
        argv = [sys.executable, "-c", program, "operator", "--config", os.fspath(self._config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)

    def end(self, number: signal.Signals, *, seconds: float = 30) -> int:
        """Send a signal and wait; the exit status."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(seconds)

    def answers(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as err:
            return err.code, err.read().decode()
        except OSError as err:
            return 0, str(err)

    def leads(self) -> bool:
        return "chrek_operator_leading 1.0" in self.answers("/metrics")[1]

    def ready(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while self.answers("/readyz")[0] != 200:
            assert self.process is not None
            text = self.log.read_text()[-4000:]
            assert self.process.poll() is None, f"the operator ended:\n{text}"
            assert time.monotonic() < deadline, f"{self.answers('/readyz')}\n{text}"
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("", 0))
        port: int = made.getsockname()[1]
        return port


def pod_spec(**changed: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "llama:1", "command": ["python3", "s.py"]}
    return {"nodeSelector": NOWHERE, "containers": [{**container, **changed}]}


def checkpoint(name: str, identity: dict[str, Any] | None = None, **job: Any) -> dict[str, Any]:
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoCheckpoint",
        "metadata": {"name": name},
        "spec": {
            "identity": identity or IDENTITY,
            "job": {"podTemplateSpec": {"spec": pod_spec()}, **job},
        },
    }


def graph(name: str, section: dict[str, Any], **main: Any) -> dict[str, Any]:
    container = {"image": "llama:1", "args": ["python3 s.py"], **main}
    pod = {"nodeSelector": NOWHERE, "mainContainer": container}
    service = {"replicas": 1, "extraPodSpec": pod, "checkpoint": {"enabled": True, **section}}
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": name},
        "spec": {"services": {"VllmWorker": service}},
    }


def items(connected: kube.Kube, kind: str, selector: str = "") -> list[dict[str, Any]]:
    words = [f"--selector={selector}"] if selector else []
    found: list[dict[str, Any]] = json.loads(connected.kubectl("get", kind, "-o", "json", *words))[
        "items"
    ]
    return found
