"""What scripts/demo does, step by step, and the table it ends with."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import sys
import time

from showcase import cluster, commands, diagnosis, errors, example, pods, setup, table

MOST_REPLICAS = 6
START_TIMEOUT = 300.0


@dataclasses.dataclass
class Result:
    """What the table shows."""

    first: pods.Start
    cold: pods.Start
    checkpoint: example.Object
    same_node: pods.Start | None = None
    other_node: pods.Start | None = None
    restored: int = 0
    answers: set[str] = dataclasses.field(default_factory=set)
    nonces: set[str] = dataclasses.field(default_factory=set)


def main(description: str | None) -> int:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--down", action="store_true", help="take the cluster down at the end")
    parser.add_argument("--size", default="20Gi", help="size of the checkpoint volume")
    options = parser.parse_args()
    try:
        with setup.prepared() as live:
            own = live.own
            try:
                result = run(live, options.size)
            except errors.ShowError:
                sys.stderr.write(diagnosis.report(live) + "\n")
                raise
            print(summary(result))
            if len(result.answers) != 1 or len(result.nonces) != 1:
                raise errors.ShowError("the restored pods are not the captured worker: see above")
            if options.down and not own:
                commands.say("--down: the cluster of KUBECONFIG is not ours to take down")
            elif not options.down:
                print(next_steps(live))
        if options.down and own:
            commands.stream([setup.SCRIPTS / "cluster", "down"])
    except errors.ShowError as err:
        sys.stderr.write(f"error: {err}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; scripts/cluster down removes what runs\n")
        return 130
    return 0


def run(live: cluster.Cluster, size: str) -> Result:
    """Install, deploy, capture, scale up."""
    commands.say(f"helm install {setup.RELEASE} --namespace {setup.NAMESPACE}")
    setup.install(live, values={"storage.pvc.size": f'"{size}"'})
    llm = example.Example(live)
    if llm.graph():
        commands.say(f"removing {example.NAME} and its checkpoint, left by an earlier run")
        llm.remove()
    commands.say("making the model (1.13 GiB of random weights) on the volume `models`")
    llm.make_model()

    commands.say(f"kubectl apply -f examples/{example.NAME}.yaml")
    llm.deploy()
    name = llm.next_pod(set())
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        measuring = executor.submit(pods.measure, live, llm.namespace, name, timeout=START_TIMEOUT)
        checkpoint = wait_for_checkpoint(live, llm)
        first = measuring.result()
    commands.say(f"first pod {name} on {first.node}: cold, Ready after {first.ready:.1f} s")
    artifact = example.variant(checkpoint)
    commands.say(
        f"checkpoint made on {artifact.get('node')}: {table.size(artifact.get('bytes', 0))} "
        f"in {example.capture_seconds(artifact):.1f} s"
    )

    result = Result(first, measure_cold(live, llm), checkpoint)
    first_pod = pods.reload(live, {"metadata": {"namespace": llm.namespace, "name": name}})
    result.answers.add(pods.complete(live, first_pod))
    scale_up(live, llm, result)
    return result


def wait_for_checkpoint(
    live: cluster.Cluster, llm: example.Example, *, timeout: float = START_TIMEOUT
) -> example.Object:
    """Follow the checkpoint until it is Ready; each phase is shown as kubectl prints it."""
    shown = ""
    deadline = time.monotonic() + timeout
    while True:
        found = llm.checkpoint()
        phase = example.phase(found)
        if found and phase and phase != shown:
            shown = phase
            line = live.kubectl("get", "dckpt", f"--namespace={llm.namespace}")
            commands.say("kubectl get dckpt\n" + line.rstrip())
        if found and phase == "Ready":
            return found
        if phase == "Failed" or time.monotonic() > deadline:
            status = (found or {}).get("status")
            raise errors.ShowError(f"the checkpoint is not Ready (phase {phase!r}): {status}")
        time.sleep(0.2)


def measure_cold(live: cluster.Cluster, llm: example.Example) -> pods.Start:
    """A cold start with nothing running beside it, which is what a warm one is compared with."""
    name = f"{example.NAME}-cold"
    here = f"--namespace={llm.namespace}"
    live.kubectl("delete", here, "pod", name, "--ignore-not-found", timeout=120)
    live.apply(llm.cold_pod(name), namespace=llm.namespace)
    start = pods.measure(live, llm.namespace, name, timeout=START_TIMEOUT)
    commands.say(f"cold start alone, on {start.node}: Ready after {start.ready:.1f} s")
    live.kubectl("delete", here, "pod", name, "--wait=false")
    return start


def scale_up(live: cluster.Cluster, llm: example.Example, result: Result) -> None:
    """Add one replica at a time until both nodes have a restored pod."""
    captured_on = example.variant(result.checkpoint).get("node")
    nodes = live.items("/api/v1/nodes")
    known = {pods.name(pod) for pod in llm.pods()}
    while len(known) < MOST_REPLICAS:
        llm.scale(len(known) + 1)
        name = llm.next_pod(known)
        known.add(name)
        start = pods.measure(live, llm.namespace, name, timeout=START_TIMEOUT)
        pod = pods.reload(live, {"metadata": {"namespace": llm.namespace, "name": name}})
        fact = pods.reported(live, pod)
        if fact["status"] != "True":
            raise errors.ShowError(
                f"pod {name} on {start.node} was not restored: {fact['reason']}: "
                f"{fact['message']}\n{pods.describe(live, llm.namespace, name)}"
            )
        answer, state = pods.complete(live, pod), pods.state(live, pod, count=True)
        result.restored += 1
        result.answers.add(answer)
        result.nonces.add(state.nonce)
        commands.say(
            f"pod {name} on {start.node}: restored, Ready after {start.ready:.1f} s; "
            f"answers {answer[:30]!r}…; counter {state.counter}"
        )
        if start.node == captured_on:
            result.same_node = result.same_node or start
        else:
            result.other_node = result.other_node or start
        if result.same_node and (result.other_node or len(nodes) == 1):
            break


def summary(result: Result) -> str:
    """The table and what its columns mean."""
    artifact = example.variant(result.checkpoint)

    def row(title: str, start: pods.Start | None, *, warm: bool) -> list[str]:
        if start is None:
            return [title, "-", "-", "-", "-"]
        factor = f"{result.cold.ready / start.ready:.1f} x" if warm else "-"
        return [title, start.node, f"{start.answering:.1f}", f"{start.ready:.1f}", factor]

    rows = [
        row("cold, beside the checkpoint job", result.first, warm=False),
        row("cold, alone", result.cold, warm=False),
        row("warm, the node of the checkpoint", result.same_node, warm=True),
        row("warm, another node", result.other_node, warm=True),
    ]
    header = ["start", "node", "answering, s", "Ready, s", "speed-up"]
    equal = "equal" if len(result.answers) == 1 else f"NOT EQUAL: {result.answers}"
    memory = "one" if len(result.nonces) == 1 else f"NOT ONE BUT {len(result.nonces)}"
    return "\n".join(
        [
            "",
            table.render(header, rows),
            "",
            f"checkpoint: {example.capture_seconds(artifact):.1f} s, "
            f"{table.size(artifact.get('bytes', 0))}, made on {artifact.get('node')}",
            f"answers of the cold pod and {result.restored} restored pods, temperature 0: {equal}",
            f"nonce in the memory of all restored pods: {memory}",
            "",
            "Seconds count from the start of the container's first process. answering: the first",
            "200 on /health; Ready: the pod's condition (the kubelet probes once a second).",
        ]
    )


def next_steps(live: cluster.Cluster) -> str:
    kubectl = "kubectl" if not live.own else f"{commands.find('kubectl')}"
    lines = ["", "Look around:"]
    if live.own:
        lines.append(f"  export KUBECONFIG={live.kubeconfig}")
    lines += [
        f"  {kubectl} -n {setup.NAMESPACE} get dckpt,dgd,pods -o wide",
        f"  {kubectl} -n {setup.NAMESPACE} get events",
    ]
    if live.own:
        lines.append("Take it down:\n  scripts/cluster down")
    return "\n".join(lines)
