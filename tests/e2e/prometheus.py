"""A real Prometheus that scrapes what a PodMonitor says, as the Prometheus Operator would have it.

Debian's has no discovery in Kubernetes. So pods are listed here, with the labels that discovery
gives them; what becomes of these is Prometheus' own work.

with prometheus.running(folder, prometheus.scrape(monitor, listed), rules) as server:
    server.query("up")
"""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from showcase import commands
from store import daemon

Object = dict[str, Any]
INTERVAL = "2s"


def targets(listed: Sequence[Object]) -> list[Object]:
    """What discovery finds: each port of each container of these pods."""
    return [
        {
            "targets": [f"{pod['status']['podIP']}:{port['containerPort']}"],
            "labels": {
                "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
                "__meta_kubernetes_pod_name": pod["metadata"]["name"],
                "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
                "__meta_kubernetes_pod_phase": pod["status"]["phase"],
                "__meta_kubernetes_pod_container_name": container["name"],
                "__meta_kubernetes_pod_container_port_name": port.get("name", ""),
                **{
                    f"__meta_kubernetes_pod_label_{_plain(label)}": value
                    for label, value in pod["metadata"].get("labels", {}).items()
                },
            },
        }
        for pod in listed
        if pod["status"].get("podIP")
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
    ]


def scrape(monitor: Object, listed: Sequence[Object]) -> list[Object]:
    """The scrape configurations of a PodMonitor.

    Args:
        listed: all pods of its namespace.
    """
    metadata, spec = monitor["metadata"], monitor["spec"]
    # Whatever else it says would have no effect here, and no test.
    assert set(spec) == {"selector", "podTargetLabels", "podMetricsEndpoints"}
    found = []
    for number, endpoint in enumerate(spec["podMetricsEndpoints"]):
        assert set(endpoint) <= {"port", "path", "interval", "relabelings"}
        found.append(
            {
                "job_name": f"podMonitor/{metadata['namespace']}/{metadata['name']}/{number}",
                "scrape_interval": INTERVAL,
                "scrape_timeout": INTERVAL,
                "metrics_path": endpoint["path"],
                "static_configs": targets(listed),
                "relabel_configs": [
                    _drop("phase", "(Failed|Succeeded)"),
                    *_selected(spec["selector"]),
                    _keep("container_port_name", endpoint["port"]),
                    _copy("__meta_kubernetes_namespace", "namespace"),
                    _copy("__meta_kubernetes_pod_container_name", "container"),
                    _copy("__meta_kubernetes_pod_name", "pod"),
                    *(
                        _copy(f"__meta_kubernetes_pod_label_{_plain(label)}", _plain(label))
                        for label in spec["podTargetLabels"]
                    ),
                    {
                        "target_label": "job",
                        "replacement": f"{metadata['namespace']}/{metadata['name']}",
                    },
                    {"target_label": "endpoint", "replacement": endpoint["port"]},
                    *({_snake(k): v for k, v in one.items()} for one in endpoint["relabelings"]),
                ],
            }
        )
    return found


def _selected(selector: Object) -> Iterator[Object]:
    assert set(selector) == {"matchLabels", "matchExpressions"}
    for label, value in selector["matchLabels"].items():
        yield _keep(f"label_{_plain(label)}", re.escape(value))
    for one in selector["matchExpressions"]:
        assert one["operator"] == "In"
        yield _keep(f"label_{_plain(one['key'])}", "|".join(map(re.escape, one["values"])))


def _keep(meta: str, pattern: str) -> Object:
    return _drop(meta, pattern, action="keep")


def _drop(meta: str, pattern: str, *, action: str = "drop") -> Object:
    source = f"__meta_kubernetes_pod_{meta}"
    return {"source_labels": [source], "regex": pattern, "action": action}


def _copy(source: str, target: str) -> Object:
    return {"source_labels": [source], "target_label": target}


def _plain(label: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)


def _snake(word: str) -> str:
    return re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", word)


class Server:
    """What is asked of it."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://{self._address}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as err:
            raise AssertionError(f"{path} {parameters}: {err.read().decode()}") from err

    def query(self, expression: str) -> list[Object]:
        """The series of this moment."""
        found: list[Object] = self.get("query", query=expression)["result"]
        return found

    def over(self, expression: str, *, start: float, end: float) -> list[Object]:
        """The series of a time, each second; of them those with a number."""
        times = {"start": f"{start}", "end": f"{end}", "step": "1"}
        found = self.get("query_range", query=expression, **times)["result"]
        return [one for one in found if any(value != "NaN" for _, value in one["values"])]


@contextlib.contextmanager
def running(folder: Path, scrapes: Sequence[Object], rules: Mapping[str, Any]) -> Iterator[Server]:
    """Start one over an empty folder, and end it.

    Args:
        folder: where its settings, its log and what it stores lie.
        scrapes: of `scrape`.
        rules: groups, as a PrometheusRule holds them.
    """
    (folder / "rules.json").write_text(json.dumps(rules))
    settings = {
        "global": {"evaluation_interval": INTERVAL},
        "rule_files": ["rules.json"],
        "scrape_configs": list(scrapes),
    }
    (folder / "prometheus.json").write_text(json.dumps(settings))
    process = daemon.Daemon(folder / "log", {})
    argv = [
        commands.find("prometheus"),
        f"--config.file={folder / 'prometheus.json'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={process.address}",
        "--log.level=warn",
    ]
    with process.running(argv):
        yield Server(process.address)
