"""The troubleshooting commands of both user's guides, typed as they are printed.

Only what stands in `<...>` is filled in. Where the guides name no namespace, the context of the
kubeconfig does. `kubectl logs job/checkpoint-<name>` of the older guide: a Job is named by the
identity hash, as in the newer one, which is also the name of checkpoints that chrek names. For
others `status.jobName` names the Job (Kubernetes looks nothing up by a second name).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import place, tiny
from showcase import agents, cluster, commands, pods

PREFIXES = ("DYN_CHECKPOINT", "DYNAMO_CHECKPOINT")


@dataclasses.dataclass(frozen=True)
class Desk:
    """A shell as a reader of the guides has it.

    Attributes:
        kubeconfig: its context's namespace is that of the release.
        fill: what stands for `<word>` in a command.
    """

    kubeconfig: Path
    fill: dict[str, str]

    def type(self, line: str) -> str:
        """What a command prints on stdout and stderr; its exit code is 0."""
        for word, value in self.fill.items():
            line = line.replace(f"<{word}>", value)
        assert "<" not in line, line
        bin_folder = os.path.dirname(commands.find("kubectl"))
        environment = {
            "KUBECONFIG": os.fspath(self.kubeconfig),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
        }
        argv = ["bash", "-o", "pipefail", "-c", line]
        done = commands.run(argv, environment=environment, timeout=60)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def desk(
    here: place.Place, counter: tiny.Worker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desk]:
    """A worker that was restored and one that was not, with their names filled in."""
    kubeconfig = tmp_path_factory.mktemp("desk") / "config"
    kubeconfig.write_text(here.live.kubeconfig.read_text())
    kubeconfig.chmod(0o600)
    commands.run(
        [
            commands.find("kubectl"), f"--kubeconfig={kubeconfig}", "config", "set-context",
            "--current", f"--namespace={here.namespace}",
        ]
    )  # fmt: skip
    agent = pods.name(agents.listed(here.live, here.namespace)[0])
    warm = counter.pod("guide-warm")
    cold = counter.pod("guide-cold", reference="not-there")
    with here.pod(warm), here.pod(cold):
        fill = {
            "hash": counter.hash,
            "namespace": here.namespace,
            "agent-pod": agent,
            "worker-pod": "guide-warm",
            "cold-pod": "guide-cold",
        }
        yield Desk(kubeconfig, fill)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        # 1. Check the checkpoint job.
        (
            "kubectl get jobs -l nvidia.com/chrek-is-checkpoint-source=true -n <namespace>",
            r"(?m)^checkpoint-<hash> +Complete +1/1 ",
        ),
        (
            "kubectl get jobs -l nvidia.com/checkpoint-source=true -n <namespace>",
            r"(?m)^checkpoint-<hash> +Complete +1/1 ",
        ),
        ("kubectl logs job/checkpoint-<hash> -n <namespace>", tiny.STARTS),
        # 2. Check the DaemonSet.
        ("kubectl logs daemonset/chrek-agent -n <namespace>", r'(?m)^\{"time": .*"severity": '),
        # 3. Verify storage access.
        ("kubectl exec -it <agent-pod> -- ls -la /checkpoints", r"(?m)^drwx.* <hash>$"),
        # Restore failing: 2. Verify that the checkpoint file exists.
        ("kubectl exec -it <agent-pod> -- ls -la /checkpoints/", r"(?m)^drwx.* <hash>$"),
        (
            "kubectl exec -it <agent-pod> -- find /checkpoints/<hash> -name manifest.json",
            r"/checkpoints/<hash>/[0-9a-f]{12}/[0-9a-f-]+/manifest\.json",
        ),
        # 3. Check environment variables.
        (
            "kubectl exec <worker-pod> -- env | grep DYN_CHECKPOINT",
            r"(?m)^DYN_CHECKPOINT_HASH=<hash>$",
        ),
        (
            "kubectl exec <worker-pod> -- env | grep DYNAMO_CHECKPOINT",
            r"(?m)^DYNAMO_CHECKPOINT_HASH=<hash>$",
        ),
        # Cold start despite checkpoint.
        (
            'kubectl logs <cold-pod> -n <namespace> | grep "Falling back to cold start"',
            r"chrek: Falling back to cold start: CheckpointNotFound: .*not-there",
        ),
        # Check status.
        ("kubectl get dynamocheckpoint -n <namespace>", r"(?m)^<hash> "),
        ("kubectl get dckpt -n <namespace>", r"(?m)^<hash> "),
        ("kubectl get dckpt <hash> -n <namespace> -o wide", r"SIZE +MESSAGE +AGE\n"),
        ("kubectl describe dckpt <hash> -n <namespace>", r"(?m)^ +Phase: +Ready$"),
    ],
)
def test_a_command_answers_what_the_guide_looks_for(desk: Desk, line: str, said: str) -> None:
    pattern = said
    for word, value in desk.fill.items():
        pattern = pattern.replace(f"<{word}>", re.escape(value))
    text = desk.type(line)
    assert re.search(pattern, text), text


def test_the_printed_columns(desk: Desk, counter: tiny.Worker) -> None:
    text = desk.type("kubectl get dynamocheckpoint <hash> -n <namespace>")
    head, row = (line.split() for line in text.splitlines())
    assert head == ["NAME", "MODEL", "BACKEND", "PHASE", "HASH", "AGE"]
    assert row[:5] == [counter.hash, counter.model, "vllm", "Ready", counter.hash]
    assert re.fullmatch(r"[0-9a-z]+", row[5]), "an age such as 5m"


def test_the_detailed_status(desk: Desk, counter: tiny.Worker) -> None:
    """kubectl writes the guide's `IdentityHash` as `Identity Hash`."""
    text = desk.type("kubectl describe dckpt <hash> -n <namespace>")
    status = text.partition("\nStatus:\n")[2]
    facts = dict(re.findall(r"(?m)^  ([A-Z][A-Za-z ]+): +(\S.*)$", status))
    assert facts["Phase"] == "Ready"
    assert facts["Identity Hash"] == counter.hash
    assert facts["Location"] == f"/checkpoints/{counter.hash}"
    assert facts["Storage Type"] == "pvc"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", facts["Created At"])


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_environment_of_a_serving_pod(desk: Desk, counter: tiny.Worker, prefix: str) -> None:
    text = desk.type(f"kubectl exec <worker-pod> -- env | grep {prefix}")
    facts = dict(line.split("=", 1) for line in text.splitlines() if line.startswith(prefix))
    assert facts == {
        f"{prefix}_STORAGE_TYPE": "pvc",
        f"{prefix}_PATH": "/checkpoints",
        f"{prefix}_HASH": counter.hash,
    }
    everything = desk.type("kubectl exec <worker-pod> -- env")
    for name in ("DYN_READY_FOR_CHECKPOINT_FILE", "DYNAMO_CHECKPOINT_SIGNAL_FILE"):
        assert name not in everything, "a serving pod that sees it would stop serving"


def test_the_environment_of_a_checkpoint_job(desk: Desk, counter: tiny.Worker) -> None:
    job = json.loads(desk.type("kubectl get job checkpoint-<hash> -n <namespace> -o json"))
    main = job["spec"]["template"]["spec"]["containers"][0]
    facts = {one["name"]: one.get("value") for one in main["env"]}
    for prefix in PREFIXES:
        assert facts[f"{prefix}_STORAGE_TYPE"] == "pvc"
        assert facts[f"{prefix}_LOCATION"] == f"/checkpoints/{counter.hash}"
        assert facts[f"{prefix}_HASH"] == counter.hash
        assert f"{prefix}_PATH" not in facts
    ready = facts["DYN_READY_FOR_CHECKPOINT_FILE"]
    assert ready
    assert ready == facts["DYNAMO_CHECKPOINT_SIGNAL_FILE"]


def test_the_log_of_the_job_of_a_checkpoint_with_a_name(here: place.Place, desk: Desk) -> None:
    """The older guide's `job/checkpoint-<name>`: the status names the Job."""
    worker = tiny.Worker("tiny/guide-named")
    wanted = worker.checkpoint()
    wanted["metadata"]["name"] = "guide-named"
    here.live.apply(wanted, namespace=here.namespace)
    here.wait_phase("guide-named", "Ready")
    column = "jsonpath={.status.jobName}"
    job = desk.type(f"kubectl get dckpt guide-named -o '{column}'")
    assert job == f"checkpoint-{worker.hash}"
    assert tiny.STARTS in desk.type(f"kubectl logs job/{job} -n <namespace>")
    here.remove("dckpt/guide-named")


def test_waiting_for_ready_as_the_complete_example_does(desk: Desk) -> None:
    """`kubectl get dckpt <hash> -w` never ends by itself; its first line is the state."""
    text = desk.type("timeout 3 kubectl get dckpt <hash> -n <namespace> -w || test $? = 124")
    assert re.search(r"(?m)^\S+ +\S+ +vllm +Ready ", text), text


def test_the_log_of_a_restored_worker(here: place.Place, desk: Desk) -> None:
    """Restore failing: 1. Check pod logs."""
    pod = here.live.get(f"{pods.path(here.namespace)}/{desk.fill['worker-pod']}")
    assert pod is not None
    cluster.wait_until(
        lambda: place.restored(pods.reload(here.live, pod)).get("status") == "True",
        lambda: pods.describe(here.live, here.namespace, pods.name(pod)),
        timeout=20,
    )
    assert "Falling back" not in desk.type("kubectl logs <worker-pod> -n <namespace>")
