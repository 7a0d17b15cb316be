"""`chrek bench` on a real cluster: a cold and a warm pod beside a Deployment, and nothing left."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema

from chrek.cli import records
from e2e import documented, place, tiny
from showcase import pods

NAME = "benched"


def test_a_deployment(here: place.Place, counter: tiny.Worker, tmp_path: Path) -> None:
    here.wait_webhook(counter)
    labels = {"app": NAME}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": {
            # Its template is all that is needed.
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": counter.template(**labels),
        },
    }
    here.live.apply(deployment, namespace=here.namespace)
    desk = documented.Desk.of(here.live, here.namespace, tmp_path / "desk")
    line = desk.filled(**{"NAME": NAME}).line(documented.one("chrek bench deployment/NAME"))
    assert "2 pods of deployment/benched" in desk.type(f"{line} --repeat 1 --dry-run")

    page = documented.find("docs/guides/bench.md#measure-it-chrek-bench")
    # A cold and a warm pod are enough here.
    said = desk.filled(**{"my-llm": NAME, "3": "1"}).type(*page, timeout=300)
    assert "2/2 warm: " in said
    assert "together" in said
    found = json.loads((desk.folder / f"{NAME}.json").read_text())
    jsonschema.validate(found, records.schema("bench"))
    cold, warm = found["trials"]
    assert (cold["kind"], cold["outcome"], cold["counted"]) == ("cold", "unmanaged", True), said
    assert (warm["kind"], warm["outcome"], warm["counted"]) == ("warm", "restored", True), said
    assert (found["checkpoint"], found["problem"]) == (counter.hash, "")
    for trial in (cold, warm):
        assert 0 < trial["created"] <= trial["scheduled"] <= trial["started"] <= trial["ready"]
    # What the agent says of it is part of what was seen from here.
    assert 0 < warm["restore_seconds"] < warm["ready"]
    assert warm["steps"]["criu"] > 0
    assert {node["name"] for node in found["machine"]["nodes"]} == {cold["node"], warm["node"]}
    for node in found["machine"]["nodes"]:
        assert node["kubelet"].startswith("v1.")
        assert node["kernel"] == os.uname().release, "nodes are this machine's"
    assert "speed_up_ready" in found["medians"]
    assert "Benchmark bench" in (desk.folder / "chrek-report.html").read_text()

    for trial in (cold, warm):
        assert here.live.get(pods.path(here.namespace, trial["pod"])) is None
    key = "kubectl delete pods -n my-team -l chrek.nvidia.com/bench"
    assert "No resources found" in desk.type(documented.one(key))
    here.remove(f"deployment/{NAME}")
