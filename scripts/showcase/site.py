"""The operator of this checkout as a process, with the rights that the chart gives it.

It runs on this machine, outside the cluster; a Service without selector leads the API server to it,
so that the webhook works as well. The API server must be able to reach this machine.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from showcase import commands, errors

Object = dict[str, Any]

CHART = commands.ROOT / "charts" / "chrek"
TEMPLATES = (
    "configmap",
    # Of the Jobs that delete artifacts.
    "agent/serviceaccount",
    *(f"operator/{name}" for name in ("lease", "rbac", "secret", "serviceaccount", "webhook")),
)
NOWHERE = "nobody"
"""The scheduler of pods that get no node: what becomes of such pods is said by others."""


class Site:
    """What the operator needs in a namespace, as the chart renders it."""

    def __init__(
        self, *, kubeconfig: Path, namespace: str, folder: Path, log_level: str = "debug"
    ) -> None:
        """Render and apply.

        Args:
            kubeconfig: of an administrator.
            namespace: of the release; it must exist.
            folder: where the configuration, credentials and logs of the operator go.
            log_level: of the operator.
        """
        self.namespace = namespace
        self.folder = folder
        self.ports = free_port(), free_port()
        self._kubeconfig = kubeconfig
        objects = self._rendered()
        data = next(item["data"] for item in objects if item["kind"] == "ConfigMap")
        self.config: Object = yaml.safe_load(data["operator.yaml"])
        self.config |= {"webhookPort": self.ports[0], "httpPort": self.ports[1]}
        self.config["logLevel"] = log_level
        self.webhook = str(self.config["webhookName"])
        self._write_deletion_job(data)
        self._apply([*objects, *self._service(self.config["webhookServiceName"])])

    def kubectl(self, *words: str, text: str | None = None) -> str:
        """Run kubectl in the namespace, as the administrator."""
        argv = [commands.find("kubectl"), f"--kubeconfig={self._kubeconfig}"]
        return commands.run([*argv, f"--namespace={self.namespace}", *words], text=text).stdout

    def kubeconfig(self) -> Path:
        """One with the rights of the operator's service account, and no others."""
        token = self.kubectl("create", "token", "chrek-operator", "--duration=6h").strip()
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
        """Delete what does not go with the namespace."""
        for kind in ("mutatingwebhookconfiguration", "clusterrole", "clusterrolebinding"):
            name = self.webhook if kind.startswith("mutating") else f"{self.webhook}-operator"
            self.kubectl("delete", kind, name, "--ignore-not-found")

    def _rendered(self) -> list[Object]:
        argv = [
            commands.find("helm"),
            "template",
            "chrek",
            os.fspath(CHART),
            f"--namespace={self.namespace}",
            *(f"--show-only=templates/{name}.yaml" for name in TEMPLATES),
        ]
        return [item for item in yaml.safe_load_all(commands.run(argv).stdout) if item]

    def _write_deletion_job(self, data: Object) -> None:
        """The template of the Jobs that delete artifacts, its pods without a node."""
        if not (text := data.get("deletion-job.yaml")):
            return
        job: Object = yaml.safe_load(text)
        job["spec"]["template"]["spec"]["schedulerName"] = NOWHERE
        path = self.folder / "deletion-job.yaml"
        path.write_text(yaml.safe_dump(job))
        self.config["deletionJobPath"] = os.fspath(path)

    def _apply(self, objects: Sequence[Object]) -> None:
        wanted = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", text=json.dumps(wanted))

    def _service(self, name: str) -> list[Object]:
        address = urllib.parse.urlsplit(self._cluster()["server"]).hostname
        port = {"name": "https", "port": self.ports[0], "protocol": "TCP"}
        metadata = {"namespace": self.namespace}
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

    def _cluster(self) -> Object:
        raw = yaml.safe_load(self._kubeconfig.read_text())
        cluster: Object = raw["clusters"][0]["cluster"]
        return cluster


class Operator:
    """One replica: a process. Use as a context manager."""

    def __init__(self, site: Site, *, name: str = "first", shift: int = 0) -> None:
        """Prepare; `start()` starts it.

        Args:
            site: what it needs in the cluster.
            name: of the replica's pod.
            shift: not 0 for a further replica, which has ports of its own.
        """
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
            "POD_NAMESPACE": self._site.namespace,
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
        """Status and text of its HTTP port; status 0 when it does not answer."""
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
        """Wait until it is ready.

        Raises:
            ShowError: it ended, or is not ready in time; with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while self.answers("/readyz")[0] != 200:
            text = self.log.read_text()[-4000:]
            if self.process is None or self.process.poll() is not None:
                raise errors.ShowError(f"the operator ended:\n{text}")
            if time.monotonic() > deadline:
                raise errors.ShowError(f"not ready: {self.answers('/readyz')}\n{text}")
            time.sleep(0.1)


def install_crds(kubeconfig: Path) -> None:
    """The chart's CRDs, from this checkout."""
    kubectl = [commands.find("kubectl"), f"--kubeconfig={kubeconfig}"]
    folder = os.fspath(CHART / "files" / "crds")
    commands.run([*kubectl, "apply", "--server-side", "--force-conflicts", "-f", folder])
    for name in ("dynamocheckpoints", "dynamographdeployments"):
        commands.run([*kubectl, "wait", "--for=condition=Established", f"crd/{name}.nvidia.com"])


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("", 0))
        port: int = made.getsockname()[1]
        return port
