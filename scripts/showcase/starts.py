"""What `scripts/bench start` measures: starts of the example, repeated, with medians."""

from __future__ import annotations

import copy
import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from showcase import (
    agents,
    cluster,
    commands,
    demo,
    errors,
    example,
    machine,
    pods,
    setup,
)

Object = dict[str, Any]
TIMEOUT = 300.0


@dataclasses.dataclass(frozen=True)
class Restore:
    """One warm start: the pod's view and the agent's."""

    start: pods.Start
    agent: Object


def measure(live: cluster.Cluster, *, repeat: int, cold: int) -> Object:
    """All figures; the example is deployed when it is not there."""
    setup.install(live, values={"storage.pvc.size": '"20Gi"'})
    llm = example.Example(live)
    if example.phase(llm.checkpoint()) != "Ready":
        llm.remove()
        llm.make_model()
        llm.deploy()
        demo.wait_for_checkpoint(live, llm)
    checkpoint = llm.checkpoint()
    assert checkpoint is not None
    # Nothing else computes while something is measured.
    llm.scale(0)
    cluster.wait_until(lambda: not llm.pods(), "the example's own pods are gone", timeout=120)
    resident = {
        pods.node(one): agents.resident_bytes(live, agents.restarted(live, one))
        for one in agents.listed(live, llm.namespace)
    }

    captured_on = str(example.variant(checkpoint)["node"])
    others = [name for name in agents.nodes(live, llm.namespace) if name != captured_on]
    colds = [start_cold(live, llm, number).start for number in range(cold)]
    same = [start_warm(live, llm, captured_on, number) for number in range(repeat)]
    other = [start_warm(live, llm, others[0], number) for number in range(repeat)] if others else []
    llm.scale(1)
    return report(live, checkpoint, resident, colds, same, other)


def start_cold(live: cluster.Cluster, llm: example.Example, number: int) -> Restore:
    return _start(live, llm, llm.cold_pod(f"bench-cold-{number}"))


def start_warm(live: cluster.Cluster, llm: example.Example, node: str, number: int) -> Restore:
    """A pod like the example's that opts in, on one node."""
    pod = copy.deepcopy(llm.cold_pod(f"bench-{node}-{number}"))
    pod["metadata"]["annotations"] = {example.OPT_IN: llm.hashes()[0]}
    pod["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
    pod["spec"].pop("topologySpreadConstraints", None)
    found = _start(live, llm, pod)
    if not found.agent:
        raise errors.ShowError(f"pod {found.start.pod} on {node} was not restored")
    return found


def _start(live: cluster.Cluster, llm: example.Example, pod: Object) -> Restore:
    name = str(pod["metadata"]["name"])
    here = f"--namespace={llm.namespace}"
    live.kubectl("delete", here, "pod", name, "--ignore-not-found", timeout=120)
    live.apply(pod, namespace=llm.namespace)
    start = pods.measure(live, llm.namespace, name, timeout=TIMEOUT)
    told = agents.restored_line(live, llm.namespace, start.node, name)
    commands.say(f"{name} on {start.node}: Ready after {start.ready:.2f} s")
    live.kubectl("delete", here, "pod", name, timeout=120)
    return Restore(start, told)


def report(
    live: cluster.Cluster,
    checkpoint: Object,
    resident: dict[str, int],
    colds: Sequence[pods.Start],
    same: Sequence[Restore],
    other: Sequence[Restore],
) -> Object:
    """The JSON: facts, medians, then every single figure."""
    artifact = example.variant(checkpoint)
    warm = [*same, *other]

    def median(values: Sequence[float]) -> float | None:
        return round(statistics.median(values), 4) if values else None

    cold_ready = statistics.median([start.ready for start in colds])
    cold_answering = statistics.median([start.answering for start in colds])
    medians: Object = {
        "cold_ready_seconds": median([start.ready for start in colds]),
        "cold_answering_seconds": median([start.answering for start in colds]),
        "agent_resident_mebibytes": median([size / (1 << 20) for size in resident.values()]),
        "checkpoint_seconds": round(example.capture_seconds(artifact), 2),
        "checkpoint_bytes": artifact.get("bytes"),
    }
    for title, group in (("same_node", same), ("other_node", other)):
        if group:
            ready = statistics.median([one.start.ready for one in group])
            answering = statistics.median([one.start.answering for one in group])
            medians[f"warm_{title}_ready_seconds"] = round(ready, 4)
            medians[f"warm_{title}_answering_seconds"] = round(answering, 4)
            medians[f"speed_up_{title}_ready"] = round(cold_ready / ready, 1)
            medians[f"speed_up_{title}_answering"] = round(cold_answering / answering, 1)
    told = [one.agent for one in warm]
    medians |= {
        "decision_milliseconds": median([1000 * line["decision_seconds"] for line in told]),
        "criu_seconds": median([line["criu_seconds"] for line in told]),
        "restore_beside_criu_milliseconds": median(
            [1000 * (line["total_seconds"] - line["criu_seconds"]) for line in told]
        ),
    }
    return {
        "what": "start",
        "machine": machine.facts(live),
        "medians": medians,
        "agent_resident_bytes": resident,
        "capture_steps_seconds": artifact.get("steps"),
        "cold": [dataclasses.asdict(start) for start in colds],
        "warm_same_node": [dataclasses.asdict(one) for one in same],
        "warm_other_node": [dataclasses.asdict(one) for one in other],
    }
