"""What `chrek bench` found: seconds of the parts of a start, and on which nodes.

Pure functions of trials, but for what is read of nodes.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import chrek
from chrek import errors, names
from chrek.cli import bench_pods, bench_records, printing, reading

Object = dict[str, Any]

NODES = ("v1", "nodes")
_PARTS: Mapping[bench_records.PhaseName, tuple[str, str]] = {
    "create": ("", "created"),
    "schedule": ("created", "scheduled"),
    "start": ("scheduled", "started"),
    "serve": ("started", "ready"),
    "ready": ("", "ready"),
    "restore": ("", "restore_seconds"),
}
"""Phase -> moments between which it is; an empty one is the beginning."""
_WORDS: Mapping[bench_records.PhaseName, str] = {
    "create": "create",
    "schedule": "schedule",
    "start": "start containers",
    "serve": "get Ready",
    "ready": "together",
    "restore": "of it restore",
}


def phases(trials: Iterable[bench_records.Trial]) -> list[bench_records.Phase]:
    """Each phase of those that count."""
    counted = [one for one in trials if one.counted]
    made = []
    for name in _PARTS:
        cold, warm = (
            _spread([s for t in counted if t.kind == kind and (s := _seconds(t, name)) is not None])
            for kind in ("cold", "warm")
        )
        # A kubelet tells late, and by turns, that containers run: parts have no ratio that holds.
        whole = name == "ready" and cold and warm and warm.median > 0
        ratio = round(cold.median / warm.median, 2) if cold and warm and whole else None
        made.append(bench_records.Phase(name=name, cold=cold, warm=warm, ratio=ratio))
    return made


def _seconds(trial: bench_records.Trial, phase: bench_records.PhaseName) -> float | None:
    first, last = _PARTS[phase]
    begin, end = getattr(trial, first) if first else 0.0, getattr(trial, last)
    return None if begin is None or end is None else float(end - begin)


def _spread(seconds: Sequence[float]) -> bench_records.Spread | None:
    if not seconds:
        return None
    return bench_records.Spread(
        median=round(statistics.median(seconds), 3),
        least=round(min(seconds), 3),
        most=round(max(seconds), 3),
    )


def medians(found: Iterable[bench_records.Phase]) -> dict[str, float]:
    """The medians by the names that `chrek report --bench` plots."""
    made = {}
    for one in found:
        for kind, spread in (("cold", one.cold), ("warm", one.warm)):
            if spread:
                made[f"{kind}_{one.name}_seconds"] = spread.median
        if one.name == "ready" and one.ratio is not None:
            made["speed_up_ready"] = one.ratio
    return made


def document(
    plan: bench_pods.Plan,
    trials: Sequence[bench_records.Trial],
    machine: bench_records.Machine,
    *,
    problem: str,
    notes: Iterable[str],
) -> bench_records.Bench:
    """All of it."""
    found = phases(trials)
    return bench_records.Bench(
        machine=machine,
        workload=plan.workload,
        namespace=plan.namespace,
        checkpoint=plan.checkpoint,
        hash=plan.hash,
        variant=plan.variant,
        requests=bench_pods.requests(plan.template["spec"]),
        medians=medians(found),
        phases=found,
        trials=list(trials),
        problem=problem,
        notes=[*notes, *_remarks(plan, trials)],
    )


def _remarks(plan: bench_pods.Plan, trials: Sequence[bench_records.Trial]) -> Iterator[str]:
    pulled = [one.pod for one in trials if one.pulled]
    if pulled:
        yield f"an image was pulled for {', '.join(pulled)}, which is part of its seconds"
    again = [one.pod for one in trials if one.restarts]
    if again:
        yield f"a container of {', '.join(again)} was started again before it was Ready"
    probes = [one.get("readinessProbe") for one in plan.template["spec"].get("containers") or []]
    if not all(probes):
        yield "a container has no readiness probe: Ready says of it only that its process runs"


def machine(
    reader: reading.Reader, nodes: Iterable[str], now: datetime.datetime
) -> bench_records.Machine:
    """Where it was measured; what may not be read is a note of the reader."""
    return bench_records.Machine(
        date=f"{now.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}",
        chrek=chrek.__version__,
        kubernetes=reader.version(),
        nodes=[_node(reader, name) for name in sorted(set(nodes) - {""})],
    )


def _node(reader: reading.Reader, name: str) -> bench_records.Node:
    from chrek.kube import workstation

    try:
        found = reader.cluster.get(workstation.path(*NODES, "", name)) or {}
    except errors.ApiError as err:
        if err.status != 403:
            raise reading.explained(err, "get", NODES, "") from err
        note = "you may not get nodes, so nothing but their names is told of them"
        if note not in reader.notes:
            reader.notes.append(note)
        found = {}
    status = found.get("status") or {}
    info, room = status.get("nodeInfo") or {}, status.get("allocatable") or {}
    labels = (found.get("metadata") or {}).get("labels") or {}
    return bench_records.Node(
        name=name,
        kubelet=str(info.get("kubeletVersion", "")),
        container_runtime=str(info.get("containerRuntimeVersion", "")),
        kernel=str(info.get("kernelVersion", "")),
        os_image=str(info.get("osImage", "")),
        architecture=str(info.get("architecture", "")),
        cpus=str(room.get("cpu", "")),
        memory=str(room.get("memory", "")),
        gpus={k: str(v) for k, v in room.items() if k.startswith(names.GPU_DOMAIN)},
        gpu_product=str(labels.get("nvidia.com/gpu.product", "")),
    )


def lines(bench: bench_records.Bench) -> list[str]:
    """The result as a person reads it; where several nodes were used, for each of them too."""
    cold = sum(one.counted for one in bench.trials if one.kind == "cold")
    warm = sum(one.counted for one in bench.trials if one.kind == "warm")
    made = [
        f"{bench.workload} in namespace {bench.namespace}, checkpoint {bench.checkpoint}: "
        f"{printing.many(cold, 'cold pod')}, {printing.many(warm, 'warm pod')}; "
        "median (least to most)",
        *_table(bench.phases),
    ]
    nodes = sorted({one.node for one in bench.trials if one.counted})
    if len(nodes) > 1:
        for node in nodes:
            made += ["", f"node {node}"]
            made += _table(phases(one for one in bench.trials if one.node == node))
    return made


def _table(found: Iterable[bench_records.Phase]) -> list[str]:
    rows = [
        (
            _WORDS[one.name],
            _told(one.cold),
            _told(one.warm),
            f"{one.ratio:.1f}" if one.ratio is not None else "",
        )
        for one in found
        if one.cold or one.warm
    ]
    return printing.table(("STEP", "COLD", "WARM", "COLD/WARM"), rows) if rows else []


def _told(spread: bench_records.Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.median:.2f} s ({spread.least:.2f} to {spread.most:.2f})"
