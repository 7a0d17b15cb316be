"""A real Prometheus on the chart's monitor, alerts and dashboard, beside a cold and a warm start.

One Prometheus for all tests here: each asks another question of the same minute.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from e2e import place, prometheus, tiny
from showcase import agents, cluster, commands, pods, setup

Object = dict[str, Any]

FLAGS = [
    f"--set={name}.enabled=true"
    for name in ("podMonitor", "monitoring.rules", "monitoring.dashboard")
]
MOST_SERIES = 1000
"""Of one target, in a long life; here an agent has 300 and an operator 200."""
TARGET = {"job", "instance", "namespace", "container", "pod", "endpoint", "node"}
"""Labels of a target."""
VARIABLES = {"$__rate_interval": "20s", "$__interval": "5s", "$__range": "5m"}

EMPTY = {
    ("Cold although the checkpoint is Ready", "A"),
    ("Restored workers that died or never got Ready", "A"),
    ("GPU seconds by step, 95th percentile", "A"),  # there are no GPUs
    ("Store size and quota", "B"),  # there is no quota
    ("Store size and quota", "C"),
    ("Artifacts, and what was pruned", "B"),
    ("Store errors and retries", "A"),
    ("Store errors and retries", "B"),
    ("Bytes sent to a server and read from it", "A"),  # the store is a volume
    ("Transfer seconds, 95th percentile", "A"),
    ("Failed checks of nodes", "A"),
}
"""Queries, by panel, that rightly find nothing where all is well; other tests may see to it."""
UNSEEN = {
    "chrek_cold_despite_ready_total",
    "chrek_unhealthy_total",
    "chrek_store_errors_total",
    "chrek_store_retries_total",
    "chrek_transfer_bytes_total",
    "chrek_transfer_seconds",
    "chrek_operator_pruned_artifacts_total",
}
"""Metrics whose series begin with an event that need not have been."""


@dataclasses.dataclass(frozen=True)
class Watched:
    """A Prometheus that has seen a cold start, a capture and a warm start."""

    server: prometheus.Server
    here: place.Place
    documents: list[Object]
    since: float

    @property
    def job(self) -> str:
        return f"{self.here.namespace}/{setup.RELEASE}"


def rendered(namespace: str) -> list[Object]:
    """The chart's documents for the release that is installed there."""
    argv = [commands.find("helm"), "template", setup.RELEASE, setup.CHART, *FLAGS]
    text = commands.run([*argv, f"--namespace={namespace}"]).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(documents: list[Object], kind: str) -> Object:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


@contextlib.contextmanager
def forgotten(here: place.Place, worker: tiny.Worker) -> Iterator[None]:
    try:
        yield
    finally:
        here.forget(worker)


@pytest.fixture(scope="module")
def watched(
    here: place.Place, counter: tiny.Worker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    documents = rendered(here.namespace)
    monitor = of_kind(documents, "PodMonitor")
    listed = here.pods_of("")
    # Beside it two that are wrong, to see that this would be noticed.
    port, path = copy.deepcopy(monitor), copy.deepcopy(monitor)
    for wrong, change in ((port, {"port": "metrics"}), (path, {"path": "/metric"})):
        wrong["metadata"]["name"] = f"wrong-{next(iter(change))}"
        wrong["spec"]["podMetricsEndpoints"][0] |= change
    scrapes = [found for one in (monitor, port, path) for found in prometheus.scrape(one, listed)]
    rules = of_kind(documents, "PrometheusRule")["spec"]
    worker = tiny.Worker("tiny/watched")
    with (
        forgotten(here, worker),
        prometheus.running(tmp_path_factory.mktemp("prometheus"), scrapes, rules) as server,
    ):
        since = time.time()
        with here.pod(worker.pod("watched-cold", node="n1")) as pod:
            assert pods.reported(here.live, pod)["status"] == "False"
        here.capture(worker, node="n1")
        with here.pod(worker.pod("watched-warm", node="n1")) as pod:
            place.assert_warm(here.live, pod)
        found = Watched(server, here, documents, since)
        # The operator looks at artifacts once a minute; that of `counter` it has often seen before.
        cluster.wait_until(
            lambda: server.query(f'chrek_operator_store_bytes{{job="{found.job}"}} > 0'),
            "Prometheus has heard of an artifact",
            timeout=90,
        )
        yield found


def test_each_agent_and_operator_is_scraped_once(watched: Watched) -> None:
    here = watched.here
    wanted = {
        (pods.name(pod), pods.node(pod))
        for component in ("agent", "operator")
        for pod in here.pods_of(f"app.kubernetes.io/component={component}")
    }
    assert len(wanted) > len(agents.nodes(here.live, here.namespace)) > 1
    found = [one for one in targets(watched) if one["labels"]["job"] == watched.job]
    assert {(one["labels"]["pod"], one["labels"]["node"]) for one in found} == wanted
    assert len(found) == len(wanted)

    def answers() -> set[tuple[str, str]]:
        seen = [one for one in targets(watched) if one["labels"]["job"] == watched.job]
        return {(one["health"], one["lastError"]) for one in seen}

    # On a busy machine one of them may be late.
    cluster.wait_until(
        lambda: answers() == {("up", "")}, lambda: f"all are up: {answers()}", timeout=30
    )


def targets(watched: Watched) -> list[Object]:
    found: list[Object] = watched.server.get("targets", state="active")["activeTargets"]
    return found


def test_a_wrong_port_or_path_would_be_noticed(watched: Watched) -> None:
    found = targets(watched)
    for name, health in (("port", set()), ("path", {"down"})):
        job = f"{watched.here.namespace}/wrong-{name}"
        assert {one["health"] for one in found if one["labels"]["job"] == job} == health


def test_series_are_few_and_have_the_labels_of_the_documents(watched: Watched) -> None:
    job = f'{{job="{watched.job}"}}'
    for one in watched.server.query(f"scrape_samples_scraped{job}"):
        assert 0 < int(one["value"][1]) < MOST_SERIES, one
    listed = {name: set(labels) for name, _, labels, _ in documented()}
    seen = watched.server.get(
        "series", **{"match[]": f'{{__name__=~"chrek_.+",job="{watched.job}"}}'}
    )
    component = "app_kubernetes_io_component"
    for labels in seen:
        name = labels.pop("__name__")
        base = re.sub("_(bucket|sum|count|created)$", "", name)
        base = base if base in listed else f"{base}_total"
        assert TARGET | {component} <= labels.keys(), name
        assert labels[component] == ("operator" if "chrek_operator" in name else "agent")
        own = {
            "namespace" if label == "exported_namespace" else label
            for label in labels.keys() - TARGET - {component, "le"}
        }
        assert own == listed[base], name


def documented() -> list[tuple[str, str, list[str], str]]:
    """Name, type, labels and meaning of each metric in docs/metrics.md."""
    text = (commands.ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*) \|$", text, re.MULTILINE)
    return [(name, kind, re.findall(r"\w+", labels), told) for name, kind, labels, told in rows]


def test_every_metric_of_the_documents_is_there(watched: Watched) -> None:
    heard = watched.server.get("metadata")
    names = set(watched.server.get("label/__name__/values"))
    absent = set()
    for name, kind, _, told in documented():
        assert [(one["type"], one["help"]) for one in heard.get(name, [])] == [(kind, told)], name
        if not {name, f"{name}_bucket"} & names:
            absent.add(name)
    assert absent <= UNSEEN


def test_the_rules_are_evaluated_and_find_nothing_of_agents_and_operator(watched: Watched) -> None:
    def rules() -> dict[str, Object]:
        groups = watched.server.get("rules")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    wanted = of_kind(watched.documents, "PrometheusRule")["spec"]["groups"]
    assert rules().keys() == {rule["alert"] for group in wanted for rule in group["rules"]}
    for rule in rules().values():
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule
    quiet = ("ChrekAgentNotReady", "ChrekPreflightFailed", "ChrekOperatorWithoutLeader")
    cluster.wait_until(
        lambda: {rules()[name]["state"] for name in quiet} == {"inactive"},
        lambda: f"all is well: {rules()}",
        timeout=30,
    )


@pytest.fixture(scope="module")
def dashboard(watched: Watched) -> Object:
    (text,) = [
        document["data"]["chrek.json"]
        for document in watched.documents
        if "chrek.json" in (document.get("data") or {})
    ]
    found: Object = json.loads(text)
    return found


def asked(watched: Watched, expression: str) -> list[Object]:
    """The series of a query of the dashboard, since the beginning."""
    expression = expression.replace("$job", watched.job)
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    # The last sample may be younger than the last whole second.
    return watched.server.over(expression, start=watched.since, end=time.time() + 5)


def test_the_releases_are_found(watched: Watched, dashboard: Object) -> None:
    (variable,) = [one for one in dashboard["templating"]["list"] if one["name"] == "job"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
    values = watched.server.get(f"label/{label}/values", **{"match[]": metric})
    assert values == [watched.job]


def test_every_query_of_the_dashboard_finds_series(watched: Watched, dashboard: Object) -> None:
    targets = {
        (panel["title"], target["refId"]): target
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }
    assert targets.keys() > EMPTY
    found = {key: asked(watched, target["expr"]) for key, target in targets.items()}
    assert {key for key, series in found.items() if not series} <= EMPTY
    for key, series in found.items():
        # A legend names labels that the series have.
        for label in re.findall(r"\{\{(\w+)\}\}", targets[key]["legendFormat"]):
            assert all(one["metric"].get(label) for one in series), (key, label)


def test_the_first_start_of_a_kind_is_counted(watched: Watched, dashboard: Object) -> None:
    """Its series begin with it, so that increase() alone would not see it."""
    panels = {(panel["type"], panel["title"]): panel for panel in dashboard["panels"]}
    (share,) = asked(watched, panels["stat", "Warm starts"]["targets"][0]["expr"])
    assert 0 < float(share["values"][-1][1]) < 1
    bars = asked(watched, panels["timeseries", "Starts by outcome"]["targets"][0]["expr"])
    counts = {
        one["metric"]["outcome"]: {float(value) for _, value in one["values"]} for one in bars
    }
    assert max(counts["cold"]) >= 1
    assert max(counts["restored"]) >= 1
    assert all(value == int(value) for values in counts.values() for value in values)
