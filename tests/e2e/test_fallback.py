"""Whatever goes wrong, the pod serves: started cold, and it says why."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from e2e import fault, node, place, tiny
from showcase import pods


def test_there_is_no_such_checkpoint(here: place.Place) -> None:
    worker = tiny.Worker("tiny/unknown")
    place.serves_cold(here, worker.pod("unknown"), {"CheckpointNotFound"})


def test_the_checkpoint_is_not_ready(here: place.Place) -> None:
    worker = tiny.Worker("tiny/never-ready", serves=False)
    here.live.apply(worker.checkpoint(), namespace=here.namespace)
    here.wait_phase(worker.hash, "Creating")
    pod = worker.pod("not-ready")
    pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] = 8001
    place.serves_cold(here, pod, {"CheckpointNotReady"})
    here.live.kubectl("delete", "dckpt", worker.hash, f"--namespace={here.namespace}")


def test_one_byte_of_memory_was_flipped(here: place.Place, fragile: tiny.Worker) -> None:
    pages = fault.largest_pages(here.artifact(fragile.hash))
    with fault.flipped_byte(pages, pages.stat().st_size // 2):
        place.serves_cold(here, fragile.pod("flipped-memory"), {"ArtifactCorrupt"})


@pytest.mark.heavy
def test_one_byte_of_an_image_was_flipped(here: place.Place, fragile: tiny.Worker) -> None:
    core = next(here.artifact(fragile.hash).glob("criu/core-*.img"))
    with fault.flipped_byte(core, core.stat().st_size // 2):
        place.serves_cold(here, fragile.pod("flipped-image"), {"ArtifactCorrupt"})


def test_the_page_file_is_missing(here: place.Place, fragile: tiny.Worker) -> None:
    with fault.missing(fault.largest_pages(here.artifact(fragile.hash))):
        place.serves_cold(here, fragile.pod("missing-pages"), {"ArtifactMissing"})


@pytest.mark.heavy
def test_the_manifest_is_missing(here: place.Place, fragile: tiny.Worker) -> None:
    with fault.missing(here.artifact(fragile.hash) / "manifest.json"):
        place.serves_cold(here, fragile.pod("missing-manifest"), {"ArtifactMissing"})


def test_the_digest_in_status_differs(here: place.Place, fragile: tiny.Worker) -> None:
    with fault.digest_in_status(here, fragile.hash, "sha256:" + "0" * 64):
        place.serves_cold(here, fragile.pod("other-digest"), {"DigestMismatch"})


@pytest.mark.parametrize("policy", ["Always", "Never"])
def test_criu_exits_non_zero(here: place.Place, counter: tiny.Worker, policy: str) -> None:
    program = "/usr/lib/chrek/criu/criu"
    with fault.replaced_in_agent(here, "n1", program, "/bin/false"):
        wanted = counter.pod(f"criu-fails-{policy.lower()}", node="n1", restartPolicy=policy)
        place.serves_cold(here, wanted, {"CriuFailed"})


def test_the_next_pod_is_warm_again(here: place.Place, counter: tiny.Worker) -> None:
    """After all of the above, nothing of it lasts."""
    for where in ("n1", "n2"):
        with here.pod(counter.pod(f"warm-again-{where}", node=where)) as pod:
            place.assert_warm(here.live, pod)


def test_the_agent_is_stopped(here: place.Place, counter: tiny.Worker) -> None:
    pid = node.agent_pid(node.agent(here.live, here.namespace, "n1"))
    with node.stopped(pid):
        wanted = counter.pod("agent-stopped", node="n1")
        place.serves_cold(here, wanted, {"AgentSilent", "AgentUnavailable"}, timeout=90)


def test_the_agent_is_killed_during_the_restore(here: place.Place, heavy: tiny.Worker) -> None:
    pid = node.agent_pid(node.agent(here.live, here.namespace, "n2"))
    caught: list[int] = []

    def kill() -> None:
        criu = node.catch(node.criu_of(pid), "CRIU", timeout=40)
        os.kill(pid, signal.SIGKILL)
        caught.append(criu)

    thread = threading.Thread(target=kill)
    thread.start()
    with here.pod(heavy.pod("agent-killed", node="n2"), timeout=90) as pod:
        thread.join()
        assert caught
        said = place.assert_cold(
            here.live, pod, {"AgentGone", "AgentSilent", "PreviousRestoreFailed"}
        )
        assert said
        assert pods.state(here.live, pod, count=True).counter == 1
        left = [p for p in node.processes(pod) if node.state(p) in ("T", "t", "D", "Z")]
        assert not left, [(p, node.name(p), node.state(p)) for p in left]
        # CRIU ended with its agent, and the next agent is there.
        assert not node.state(caught[0])
        node.agent(here.live, here.namespace, "n2")
    with here.pod(heavy.pod("agent-back", node="n2"), timeout=90) as pod:
        place.assert_warm(here.live, pod)


def test_a_restricted_namespace_with_a_quota(strict: place.Place, counter: tiny.Worker) -> None:
    """Injection keeps a pod admissible; its namespace has no such checkpoint."""
    place.serves_cold(strict, counter.pod("admitted"), {"CheckpointNotFound"})


def test_a_checkpoint_works_in_a_restricted_namespace(strict: place.Place) -> None:
    worker = tiny.Worker("tiny/strict")
    strict.capture(worker)
    with strict.pod(worker.pod("warm")) as pod:
        place.assert_warm(strict.live, pod)


@pytest.mark.heavy
def test_another_command_is_another_variant(here: place.Place, counter: tiny.Worker) -> None:
    other = tiny.Worker(counter.model, ballast=5)
    place.serves_cold(here, other.pod("other-command"), {"NoMatchingVariant"})
