"""How long commands of `chrek` take where there are many checkpoints, without their imports.

An API server of this machine answers from memory, so that what is measured is the command. Each
run is a process of its own, in turns with one that imports what the command has imported and does
nothing else.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chrek import identity, variant
from showcase import commands

Object = dict[str, Any]

AIM_SECONDS = 1.0
"""Of a command, after its imports."""
NAMESPACE = "team"
CONTAINER: Object = {
    "name": "main",
    "image": "vllm:1",
    "command": ["python3", "-m", "dynamo.vllm"],
    "env": [{"name": f"VARIABLE_{number}", "value": "x" * 20} for number in range(20)],
}
TIME = "2026-01-29T10:00:00Z"
CHECKPOINTS_OF_A_GRAPH = 5
COMMANDS = {
    "list": ("list",),
    "show": ("show", "llm-7"),
    "explain": ("explain", "deployment/llm-7"),
    "report": ("report", "--output", "-"),
    "diff": ("diff", "deployment/llm-7", "llm-7"),
    "retry": ("retry", "llm-7", "--dry-run"),
    "checkpoint": (
        *("checkpoint", "deployment/llm-7", "--model", "model-7", "--backend", "vllm"),
        "--dry-run",
    ),
    "prune": ("prune", "--dry-run", "--unused-for", "1d"),
}
"""What is measured -> words after `chrek`."""
_PROGRAM = "from chrek.cli import main; main()"
_IMPORTED = """
import sys
from chrek.cli import main
try:
    main()
finally:
    print("\\n", *sys.modules, file=sys.stderr)
"""
_IMPORTS = """
import contextlib, importlib, sys
for name in sys.argv[1].split():
    if name in sys.modules:
        continue
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
"""


def measure(checkpoints: int, repeat: int) -> Object:
    """Every command, so many times.

    Raises:
        ShowError: a command failed.
    """
    found = {}
    with tempfile.TemporaryDirectory() as temporary, _serving(objects(checkpoints)) as url:
        kubeconfig = Path(temporary) / "config"
        kubeconfig.write_text(json.dumps(_kubeconfig(url)))
        environment = {"KUBECONFIG": os.fspath(kubeconfig)}
        for name, words in COMMANDS.items():
            commands.say(f"chrek {' '.join(words)}")
            found[name] = _measure(words, environment, repeat)
    return {"load_average": os.getloadavg(), "runs": found, "figures": headline(found, checkpoints)}


def headline(runs: Mapping[str, Mapping[str, Sequence[float]]], checkpoints: int) -> Object:
    """Medians of each command; the difference is that of the two runs beside each other."""
    found: Object = {"checkpoints": checkpoints}
    for name, run in runs.items():
        own = [all_ - imports for all_, imports in zip(run["all"], run["imports"], strict=True)]
        found[f"{name}_all_seconds"] = round(statistics.median(run["all"]), 3)
        found[f"{name}_imports_seconds"] = round(statistics.median(run["imports"]), 3)
        key = f"{name}_seconds"
        # One that does next to nothing can be as fast as its imports.
        found[key] = max(0.0, round(statistics.median(own), 3))
        found[f"{key}_limit"] = AIM_SECONDS
        found[f"{key}_kept"] = found[key] <= AIM_SECONDS
    return found


def _measure(
    words: Sequence[str], environment: dict[str, str], repeat: int
) -> dict[str, list[float]]:
    # This one also writes what Python compiles.
    seen = commands.run([sys.executable, "-c", _IMPORTED, *words], environment=environment)
    modules = seen.stderr.rpartition("\n ")[2]
    runs: dict[str, list[float]] = {"all": [], "imports": []}
    for _ in range(repeat):
        for kind, code, arguments in (
            ("all", _PROGRAM, words),
            ("imports", _IMPORTS, [modules]),
        ):
            begin = time.monotonic()
            commands.run([sys.executable, "-c", code, *arguments], environment=environment)
            runs[kind].append(round(time.monotonic() - begin, 4))
    return runs


def objects(checkpoints: int) -> dict[str, Object]:
    """What the API server has: path -> object or list. A Deployment and a pod for each checkpoint.

    Args:
        checkpoints: how many there are; a graph names each fifth.
    """
    ours = f"/apis/nvidia.com/v1alpha1/namespaces/{NAMESPACE}"
    lists: dict[str, list[Object]] = {
        f"{ours}/dynamocheckpoints": [_checkpoint(number) for number in range(checkpoints)],
        f"{ours}/dynamographdeployments": [
            _graph(number) for number in range(0, checkpoints, CHECKPOINTS_OF_A_GRAPH)
        ],
        f"/api/v1/namespaces/{NAMESPACE}/pods": [_pod(number) for number in range(checkpoints)],
        f"/api/v1/namespaces/{NAMESPACE}/events": [_event(number) for number in range(checkpoints)],
        f"/api/v1/namespaces/{NAMESPACE}/configmaps": [],
        f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments": [
            _deployment(number) for number in range(checkpoints)
        ],
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations": [],
    }
    found: dict[str, Object] = {"/version": {"gitVersion": "v1.34.4"}}
    for path, items in lists.items():
        found[path] = {"kind": "List", "items": items}
        found |= {f"{path}/{item['metadata']['name']}": item for item in items}
    return found


def _metadata(name: str, **fields: Any) -> Object:
    # A real API server tells of every field who owns it, which is a good part of what it sends.
    owned: Object = {"f:spec": {f"f:field-{number}": {} for number in range(20)}}
    managed = [{"manager": "m", "operation": "Apply", "time": TIME, "fieldsV1": owned}]
    return {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-{name}",
        "creationTimestamp": TIME,
        "managedFields": managed,
        **fields,
    }


def _identity(number: int) -> Object:
    return {"model": f"model-{number}", "backendFramework": "vllm"}


def _checkpoint(number: int) -> Object:
    hashed, message = identity.parse(_identity(number)).hash(), "captured on node n1, 1.3Gi"
    artifact = {
        "name": variant.of_container(CONTAINER),
        "uuid": f"11111111-2222-4333-8444-{number:012}",
        "digest": f"sha256:{number:064x}",
        "image": CONTAINER["image"],
        "node": "n1",
        "bytes": 1400000000,
        "createdAt": TIME,
        "steps": {"digest": 0.4, "dump": 1.2, "files": 0.01, "preflight": 0.002, "sync": 0.3},
    }
    ready = {"type": "Ready", "status": "True", "reason": "Checkpointed", "message": message}
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoCheckpoint",
        "metadata": _metadata(f"llm-{number}"),
        "spec": {
            "identity": _identity(number),
            "job": {"podTemplateSpec": {"spec": {"containers": [CONTAINER]}}},
        },
        "status": {
            "phase": "Ready",
            "message": message,
            "identityHash": hashed,
            "location": f"/checkpoints/{hashed}",
            "storageType": "pvc",
            "variants": [artifact],
            "conditions": [{**ready, "lastTransitionTime": TIME}],
        },
    }


def _graph(number: int) -> Object:
    service = {
        "replicas": 1,
        "extraPodSpec": {"mainContainer": CONTAINER},
        "checkpoint": {"enabled": True, "mode": "auto", "identity": _identity(number)},
    }
    spec = {"services": {"Frontend": {"replicas": 1}, "Worker": service}}
    return {"metadata": _metadata(f"graph-{number}"), "spec": spec}


def _deployment(number: int) -> Object:
    labels = {"app": f"llm-{number}"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [CONTAINER]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return {"kind": "Deployment", "metadata": _metadata(f"llm-{number}"), "spec": spec}


def _pod(number: int) -> Object:
    name = f"llm-{number}"
    start = {
        "outcome": "restored",
        "reason": "Restored",
        "message": "restored 1.40 GB in 1.17 s (0.95 s in CRIU)",
        "uuid": f"11111111-2222-4333-8444-{number:012}",
        "variant": variant.of_container(CONTAINER),
        "at": TIME,
    }
    main = {
        **CONTAINER,
        "command": ["/chrek/chrek-init", "--wait", "20", "--", *CONTAINER["command"]],
    }
    metadata = _metadata(
        f"{name}-5d9-x",
        labels={"app": name, "nvidia.com/chrek-managed": "true"},
        annotations={
            "nvidia.com/chrek-checkpoint": name,
            "nvidia.com/chrek-start": json.dumps(start),
        },
        ownerReferences=[
            {"kind": "ReplicaSet", "name": f"{name}-5d9", "uid": "uid-owner", "controller": True}
        ],
    )
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled", "nvidia.com/Restored")
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": TIME} for kind in kinds]
    return {
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": "n1", "containers": [main]},
        "status": {"phase": "Running", "conditions": conditions},
    }


def _event(number: int) -> Object:
    name = f"llm-{number}-5d9-x"
    return {
        "metadata": _metadata(f"{name}.restored"),
        "involvedObject": {"kind": "Pod", "name": name, "uid": f"uid-{name}"},
        "reportingComponent": "nvidia.com/chrek-agent",
        "type": "Normal",
        "reason": "Restored",
        "message": "restored 1.40 GB in 1.17 s",
        "eventTime": TIME,
    }


def _kubeconfig(url: str) -> Object:
    context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": context}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
    }


@contextlib.contextmanager
def _serving(found: Mapping[str, Object]) -> Iterator[str]:
    """An API server that can only be read; yields its address."""
    answers = {path: json.dumps(body).encode() for path, body in found.items()}

    class Handler(http.server.BaseHTTPRequestHandler):
        # As a real one does it: the client asks all it wants on one connection.
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            body = answers.get(path)
            if body is not None and "app%3D" in query:
                body = _labelled(json.loads(body), query.partition("app%3D")[2])
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _labelled(answer: Object, app: str) -> bytes:
    items = [one for one in answer["items"] if one["metadata"].get("labels", {}).get("app") == app]
    return json.dumps({**answer, "items": items}).encode()
