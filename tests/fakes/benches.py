"""What `chrek bench` measures in tests: a Deployment and the plan of its pods."""

from __future__ import annotations

from chrek.cli import bench_pods, workload
from fakes import warm


def deployment(annotations=None, **spec):
    raw = warm.deployment()
    raw["spec"]["template"] = {
        "metadata": {"labels": {"app": "llm"}, "annotations": annotations or {}},
        "spec": {"containers": [warm.container()], **spec},
    }
    return workload.Workload(kind="Deployment", name="llm", raw=raw)


def plan(found=None, **fields):
    template = bench_pods.template_of(found or deployment())
    known = {"run": "abc", "workload": "deployment/llm", "namespace": "team"}
    made = {"template": template, "checkpoint": "llama", "hash": warm.HASH, "variant": "v"}
    return bench_pods.Plan(**{**known, **made, **fields})
