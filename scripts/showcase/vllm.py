"""What scripts/vllm-check does: a cold start, a checkpoint and warm starts of vLLM on the CPU."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Any

from showcase import (
    agents,
    bench,
    cluster,
    commands,
    demo,
    diagnosis,
    errors,
    example,
    machine,
    pods,
    setup,
    table,
    vllm_packages,
    vllm_worker,
)

Object = dict[str, Any]
NAMESPACE = "vllm-check"
OUTPUT = commands.ROOT / "docs" / "bench" / "vllm.json"
CRIU = "/usr/lib/chrek/criu"


def main(description: str | None) -> int:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tensor-parallel-size",
        type=int,
        action="append",
        choices=(1, 2),
        help="only this one; by default first 1, then 2",
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--keep", action="store_true", help="leave the release installed")
    options = parser.parse_args()
    for number in bench.SIGNALS:
        signal.signal(number, bench.interrupt)
    try:
        with setup.prepared() as live:
            sizes = options.tensor_parallel_size or [1, 2]
            runs = check(live, sizes, options.output, keep=options.keep)
    except errors.ShowError as err:
        sys.stderr.write(f"error: {err}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    print(summary(runs))
    commands.say(f"written to {options.output}")
    wrong = [run["tensor_parallel_size"] for run in runs if not run["same_tokens"]]
    if wrong:
        sys.stderr.write(f"error: other tokens than cold with tensor parallel size {wrong}\n")
    return 1 if wrong else 0


def check(live: cluster.Cluster, sizes: list[int], output: Path, *, keep: bool) -> list[Object]:
    """Everything on the cluster; what is measured is written after each run."""
    runs: list[Object] = []
    if not live.own:
        raise errors.ShowError(
            "the packages lie in a folder that only nodes of scripts/cluster see",
            hint="unset KUBECONFIG",
        )
    vllm_packages.ensure()
    try:
        setup.install(live, namespace=NAMESPACE, values={"storage.pvc.size": '"20Gi"'})
        report: Object = {
            "what": "vllm",
            "machine": machine.facts(live),
            "versions": {**vllm_packages.versions(), **_versions(live)},
            "runs": runs,
        }
        for size in sizes:
            runs.append(_run(live, size))
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=2) + "\n")
    except errors.ShowError:
        sys.stderr.write(diagnosis.report(live, NAMESPACE) + "\n")
        raise
    finally:
        if not keep:
            _remove(live)
    return runs


def _versions(live: cluster.Cluster) -> dict[str, str]:
    """Of CRIU, as the agent's image has it, and of chrek."""
    agent = pods.name(agents.listed(live, NAMESPACE)[0])
    said = live.kubectl(
        "exec", f"--namespace={NAMESPACE}", agent, "-c", "agent", "--",
        f"{CRIU}/ld.so", "--library-path", f"{CRIU}/lib", f"{CRIU}/criu", "--version",
    )  # fmt: skip
    return {"criu": said.split()[1], "chrek": setup.VERSION}


def _run(live: cluster.Cluster, size: int) -> Object:
    """Checkpoint, cold start and a warm start on each node, one after the other."""
    worker = vllm_worker.Worker(live, NAMESPACE, f"vllm-tp{size}", parallel=size)
    if worker.graph():
        worker.remove()
    commands.say(f"vLLM, tensor parallel size {size}: making the checkpoint")
    worker.deploy()
    found = demo.wait_for_checkpoint(live, worker, timeout=vllm_worker.START_SECONDS)
    made = example.variant(found)
    commands.say(
        f"checkpoint made on {made.get('node')}: {table.size(made['bytes'])}, "
        f"worker frozen for {example.capture_seconds(made):.1f} s"
    )
    restarts = _job_restarts(live, found)
    cold = _cold(live, worker)
    warm = [_warm(live, worker, count) for count in (1, 2)]
    worker.remove()
    nodes = {start["node"] for start in warm}
    if nodes <= {made.get("node")}:
        raise errors.ShowError(f"no pod was restored on another node than {made.get('node')}")
    return {
        "tensor_parallel_size": size,
        "same_tokens": all(start["tokens"] == cold.tokens for start in warm),
        "cold": dataclasses.asdict(cold),
        "checkpoint": {
            "node": made.get("node"),
            "bytes": made["bytes"],
            "frozen_seconds": example.capture_seconds(made),
            "steps_seconds": made.get("steps"),
            "restarts": restarts,
        },
        "warm": warm,
    }


def _cold(live: cluster.Cluster, worker: vllm_worker.Worker) -> vllm_worker.Start:
    """A pod that does not opt in, alone on the machine."""
    name = f"{worker.name}-cold"
    live.apply(worker.cold_pod(name), namespace=NAMESPACE)
    start = worker.measure(name)
    commands.say(f"cold start on {start.node}: Ready after {start.ready:.1f} s")
    live.kubectl("delete", f"--namespace={NAMESPACE}", "pod", name, "--timeout=120s", timeout=130)
    return start


def _warm(live: cluster.Cluster, worker: vllm_worker.Worker, count: int) -> Object:
    """One more replica; its start, and what the agent says of it."""
    known = {pods.name(pod) for pod in worker.pods()}
    worker.scale(count)
    start = worker.measure(worker.next_pod(known))
    pod = pods.reload(live, {"metadata": {"namespace": NAMESPACE, "name": start.pod}})
    fact = pods.reported(live, pod)
    if fact["status"] != "True":
        raise errors.ShowError(
            f"pod {start.pod} on {start.node} was not restored: {fact['reason']}: "
            f"{fact['message']}\n{pods.describe(live, NAMESPACE, start.pod)}"
        )
    commands.say(
        f"warm start on {start.node}: Ready after {start.ready:.1f} s, "
        f"first completion after {start.completion:.1f} s"
    )
    told = agents.restored_line(live, NAMESPACE, start.node, start.pod)
    return {**dataclasses.asdict(start), "agent": told}


def _job_restarts(live: cluster.Cluster, checkpoint: Object) -> int:
    """Restarts of the captured container; the Job's pod stays for a while."""
    name = checkpoint["metadata"]["name"]
    found = [
        pod
        for pod in live.items(pods.path(NAMESPACE))
        if pods.name(pod).startswith(f"checkpoint-{name}")
    ]
    return sum(vllm_worker.restarts(pod) for pod in found)


def _remove(live: cluster.Cluster) -> None:
    """Take away what was installed."""
    here = f"--namespace={NAMESPACE}"
    live.kubectl("delete", here, "dgd,dckpt", "--all", "--timeout=120s", check=False, timeout=130)
    live.helm("uninstall", setup.RELEASE, here, "--wait", check=False)
    live.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s", check=False, timeout=130)


def summary(runs: list[Object]) -> str:
    """The table and what its columns mean."""
    header = ["start", "node", "Ready, s", "completion, s", "in CRIU, s", "bytes", "restarts"]
    rows = []
    for run in runs:
        size, made = run["tensor_parallel_size"], run["checkpoint"]
        rows.append(_row(f"tp {size}: cold", run["cold"], "-", "-"))
        rows.append(
            [
                *(f"tp {size}: checkpoint", made["node"], "-", "-"),
                f"{made['steps_seconds'].get('dump', 0):.2f}",
                table.size(made["bytes"]),
                str(made["restarts"]),
            ]
        )
        for start in run["warm"]:
            where = "same node" if start["node"] == made["node"] else "other node"
            criu, size_ = start["agent"]["criu_seconds"], start["agent"].get("bytes")
            read = table.size(size_) if size_ else "-"
            rows.append(_row(f"tp {size}: warm, {where}", start, f"{criu:.2f}", read))
    equal = {run["tensor_parallel_size"]: run["same_tokens"] for run in runs}
    said = ", ".join(f"tp {size}: {'same' if ok else 'OTHER'}" for size, ok in equal.items())
    return "\n".join(
        [
            "",
            table.render(header, rows),
            "",
            f"tokens of cold and restored pods for one prompt, temperature 0: {said}",
            "Seconds count from the start of the container's first process; completion: the first",
            f"{vllm_worker.TOKENS} tokens are there. In CRIU: its dump, its restore.",
        ]
    )


def _row(title: str, start: Object, criu: str, size: str) -> list[str]:
    return [
        *(title, start["node"], f"{start['ready']:.1f}", f"{start['completion']:.1f}"),
        *(criu, size, str(start["restarts"])),
    ]
