"""A small worker for the many cases: a counter and a nonce in memory, in chrek's own image.

It answers on port 8001 as the example worker does (/health, /counter, /state) and ends with code N
when asked for /exit/N.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from chrek import identity
from showcase import setup

Object = dict[str, Any]

SOURCE = """
import http.server, json, os, secrets, signal, socket, sys, threading, time
ballast = os.urandom(int(sys.argv[1]) << 20)
delay = float(sys.argv[2])
for link, target in zip(sys.argv[3::2], sys.argv[4::2]):
    try:
        os.makedirs(os.path.dirname(link), exist_ok=True)
        if target.startswith('text:'):
            open(link, 'w').write(target[5:])
        else:
            os.symlink(target, link)
    except OSError as error:
        print('not made:', error, flush=True)
nonce, counter, pid = secrets.token_hex(16), 0, os.getpid()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global counter
        if self.path.startswith('/exit/'):
            os._exit(int(self.path[6:]))
        counter += self.path == '/counter'
        body = json.dumps({'nonce': nonce, 'counter': counter, 'pid': pid,
                           'hostname': socket.gethostname()}).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        if self.path != '/health':
            print('asked', self.path, 'counter', counter, flush=True)
def watch():
    while not os.path.exists(os.environ['DIES']):
        time.sleep(0.1)
    os._exit(3)
if os.environ.get('DIES'):
    threading.Thread(target=watch, daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
time.sleep(delay)
print('tiny worker starts', nonce, flush=True)
http.server.ThreadingHTTPServer(('', 8001), Handler).serve_forever()
"""

STARTS = "tiny worker starts"
OPT_IN = "nvidia.com/chrek-checkpoint"


@dataclasses.dataclass(frozen=True)
class Worker:
    """A kind of tiny worker: equal ones can share a checkpoint.

    Attributes:
        model: the identity's model, which names the checkpoint.
        ballast: MiB of random memory, for dumps and restores that take a while.
        delay: seconds that a cold start takes on top.
        links: path and target of symlinks that the worker makes at its start; a target that starts
            with `text:` is the content of a plain file instead.
        volumes: mount path -> name of an emptyDir.
        serves: whether the readiness probe can ever pass.
        image: repository of the image; any of ours that holds Python.
        dies: path of a file; a worker that sees it exits, within a tenth of a second.
    """

    model: str
    ballast: int = 4
    delay: float = 0.0
    links: Sequence[tuple[str, str]] = ()
    volumes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    serves: bool = True
    image: str = "chrek"
    dies: str = ""

    @property
    def identity(self) -> dict[str, str]:
        return {"model": self.model, "backendFramework": "vllm"}

    @property
    def hash(self) -> str:
        return identity.parse(self.identity).hash()

    def container(self) -> Object:
        arguments = [str(self.ballast), str(self.delay)]
        return {
            "name": "main",
            "image": setup.image(self.image),
            "command": ["python3", "-c", SOURCE],
            "args": [*arguments, *(part for link in self.links for part in link)],
            "env": [{"name": "DIES", "value": self.dies}] if self.dies else [],
            "ports": [{"containerPort": 8001}],
            "readinessProbe": {
                "httpGet": {"path": "/health", "port": 8001 if self.serves else 9},
                "periodSeconds": 1,
            },
            "resources": {
                "requests": {"cpu": "10m", "memory": "32Mi"},
                "limits": {"cpu": "2", "memory": f"{256 + 2 * self.ballast}Mi"},
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": name, "mountPath": path} for path, name in self.volumes.items()
            ],
        }

    def spec(self) -> Object:
        """A pod's spec that Pod Security *restricted* accepts."""
        return {
            "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [self.container()],
            "volumes": [{"name": name, "emptyDir": {}} for name in self.volumes.values()],
        }

    def pod(self, name: str, *, node: str = "", reference: str = "", **more: Any) -> Object:
        """A pod that opts in by annotation; `more` is added to its spec."""
        selector = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "annotations": {OPT_IN: reference or self.hash}},
            "spec": {**self.spec(), **selector, **more},
        }

    def template(self, **labels: str) -> Object:
        """A pod template that carries the identity: its checkpoint is made from the pods."""
        annotations = {"nvidia.com/chrek-identity": json.dumps(self.identity)}
        return {"metadata": {"labels": labels, "annotations": annotations}, "spec": self.spec()}

    def graph(
        self, name: str, section: Object | None = None, *, replicas: int = 1, node: str = ""
    ) -> Object:
        """A DynamoGraphDeployment of one service; `section` is added to its checkpoint section."""
        spec = self.spec()
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        main = spec.pop("containers")[0]
        main.pop("name")
        asked = section or {}
        known = {} if "checkpointRef" in asked else {"identity": self.identity}
        return {
            "apiVersion": "nvidia.com/v1alpha1",
            "kind": "DynamoGraphDeployment",
            "metadata": {"name": name},
            "spec": {
                "services": {
                    "Worker": {
                        "replicas": replicas,
                        "extraPodSpec": {**spec, "mainContainer": main},
                        "checkpoint": {"enabled": True, **known, **asked},
                    }
                }
            },
        }

    def checkpoint(self, *, node: str = "", backoff: int = 2) -> Object:
        """The DynamoCheckpoint, named by its hash."""
        spec = self.spec()
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        return {
            "apiVersion": "nvidia.com/v1alpha1",
            "kind": "DynamoCheckpoint",
            "metadata": {"name": self.hash},
            "spec": {
                "identity": self.identity,
                "job": {
                    "activeDeadlineSeconds": 240,
                    "backoffLimit": backoff,
                    "podTemplateSpec": {"spec": spec},
                },
            },
        }
