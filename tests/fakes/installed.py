"""What `chrek doctor` meets: the chart's ConfigMap, agents that answer, and missing rights."""

from __future__ import annotations

import json

import msgspec
import yaml

import chrek
from fakes import release

MAPS = "/api/v1/configmaps"
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"labels": release.AGENT_LABELS},
    "spec": {"serviceAccountName": "chrek-agent", "containers": [{"name": "agent"}]},
}


def config_map(config=None, *, pod=POD, release_name="chrek", namespace="team", **data):
    """As the chart renders it; `data` takes the place of what is in it."""
    config = release.config(**{"namespace": namespace}) if config is None else config
    files = {"release.yaml": yaml.safe_dump(msgspec.to_builtins(config)), "agent.yaml": "{}"}
    if pod is not None:
        files["agent-pod.yaml"] = yaml.safe_dump(pod)
    files |= {key.replace("_", "-") + ".yaml": text for key, text in data.items()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{release_name}-config",
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/part-of": "chrek",
                "app.kubernetes.io/component": "config",
                "app.kubernetes.io/instance": release_name,
                "app.kubernetes.io/version": chrek.__version__,
            },
        },
        "data": {key: text for key, text in files.items() if text is not None},
    }


def add(api, config=None, **changes):
    """Install that ConfigMap."""
    body = config_map(config, **changes)
    namespace = body["metadata"]["namespace"]
    api.add(f"/api/v1/namespaces/{namespace}/configmaps", body)
    # The fake knows no lists over all namespaces.
    api.add(MAPS, body, name=f"{namespace}-{body['metadata']['name']}")


def answers(api, node, *checks, ready=True, port=8089, **fields):
    """Have an agent answer through the API server; a check is (name, status, detail, hint)."""
    keys = ("name", "status", "detail", "hint")
    body = {
        "node": node,
        "version": chrek.__version__,
        "ready": ready,
        "problems": [],
        "captures": 0,
        "restores": 0,
        "time": 1790000000.123,
        "checks": [dict(zip(keys, check, strict=False)) for check in checks],
    }
    path = f"{release.PODS}/chrek-agent-{node}:{port}/proxy/preflight"
    api.texts[path] = json.dumps(body | fields).encode()
    return path


def healthy(api):
    """A cluster with a release in which everything is as it should be."""
    release.healthy(api)
    release.running(api)
    add(api)
    for node in ("n1", "n2"):
        answers(api, node, ("store-write", "ok", "written"), ("clock", "ok", "0.1 s"))


def deny(api, verb, path, resource, *, group="", namespace=""):
    """Refuse a path as an API server does that knows who asks."""
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    full = f"{resource}.{group}" if group else resource
    message = (
        f'{full} is forbidden: User "somebody" cannot {verb} resource "{resource}" '
        f'in API group "{group}" {where}'
    )
    method = {"create": "POST", "patch": "PATCH"}.get(verb, "GET")
    api.refuse(method, path, status=403, message=message)
