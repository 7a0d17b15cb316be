"""The life of a checkpoint after it is Ready: lost, suspect, tried again, deleted."""

from __future__ import annotations

import contextlib
import time

from e2e import fault, place, tiny
from showcase import cluster, example, pods

RETRY = "chrek.nvidia.com/retry"
DIES = "/tmp/dies"


def deletion_jobs(here: place.Place) -> set[str]:
    selector = "-l=nvidia.com/chrek-deletion=true"
    said = here.live.kubectl("get", "jobs", f"--namespace={here.namespace}", "-o=name", selector)
    return set(said.split())


def test_deleting_the_last_checkpoint_deletes_the_artifact(here: place.Place) -> None:
    worker = tiny.Worker("tiny/deleted")
    before = deletion_jobs(here)
    here.capture(worker)
    folder = here.volume() / worker.hash
    assert here.artifact(worker.hash).exists()
    here.forget(worker)
    assert not folder.exists()
    cluster.wait_until(
        lambda: deletion_jobs(here) <= before, "the Job that deleted it is gone", timeout=20
    )


def test_retain_keeps_the_artifact(here: place.Place) -> None:
    worker = tiny.Worker("tiny/retained")
    wanted = worker.checkpoint()
    wanted["spec"]["deletionPolicy"] = "Retain"
    here.live.apply(wanted, namespace=here.namespace)
    here.wait_phase(worker.hash, "Ready")
    artifact = here.artifact(worker.hash)
    here.forget(worker)
    assert (artifact / "manifest.json").exists()


def test_a_lost_artifact_of_a_users_checkpoint_fails_and_is_retried(here: place.Place) -> None:
    worker = tiny.Worker("tiny/lost")
    before = example.variant(here.capture(worker))
    with fault.missing(here.artifact(worker.hash) / "manifest.json"):
        with here.pod(worker.pod("lost")) as pod:
            place.assert_cold(here.live, pod, {"ArtifactMissing"})
        found = here.wait_reason(worker.hash, "ArtifactMissing")
        assert found["status"]["phase"] == "Failed"
        assert RETRY in found["status"]["message"], "it says what to do"
    here.retry(worker.hash, "1")
    after = example.variant(here.wait_phase(worker.hash, "Ready"))
    assert after["uuid"] != before["uuid"]
    with here.pod(worker.pod("found-again")) as pod:
        place.assert_warm(here.live, pod)
    here.forget(worker)


def test_a_lost_artifact_in_auto_mode_is_made_again(here: place.Place) -> None:
    worker = tiny.Worker("tiny/lost-auto")
    here.live.apply(worker.graph("lost-auto"), namespace=here.namespace)
    before = example.variant(here.wait_phase(worker.hash, "Ready"))
    (here.artifact(worker.hash) / "manifest.json").unlink()
    with here.pod(worker.pod("lost-auto")) as pod:
        place.assert_cold(here.live, pod, {"ArtifactMissing"})
        cluster.wait_until(
            lambda: example.phase(here.checkpoint(worker.hash)) != "Ready",
            "it is not Ready",
            timeout=20,
        )
        after = example.variant(here.wait_phase(worker.hash, "Ready", timeout=120))
    assert after["uuid"] != before["uuid"]
    folder = here.volume() / worker.hash / str(before["name"]) / str(before["uuid"])
    cluster.wait_until(lambda: not folder.exists(), "what was lost is deleted", timeout=60)
    here.remove("dgd/lost-auto")
    here.forget(worker)


def test_three_pods_that_die_make_it_suspect(here: place.Place) -> None:
    worker = tiny.Worker("tiny/suspect", dies=DIES)
    here.capture(worker)
    with contextlib.ExitStack() as stack:
        for number in range(3):
            pod = stack.enter_context(here.pod(worker.pod(f"suspect-{number}")))
            place.assert_warm(here.live, pod)
            here.exec(pod, "python3", "-c", f"open({DIES!r}, 'w')")
            # Its next start is cold, and does not die: the file went with the container.
            again = here.wait_restarted(pod, 1)
            place.assert_cold(here.live, again, {"PreviousRestoreFailed", "Suspect"})
        found = here.wait_reason(worker.hash, "Suspect")
        assert place.condition(found, "Suspect")["status"] == "True"
        assert RETRY in found["status"]["message"]
        with here.pod(worker.pod("suspect-cold")) as pod:
            place.assert_cold(here.live, pod, {"Suspect"})
        before = example.variant(found)["uuid"]
        here.retry(worker.hash, "now")
        found = here.wait_phase(worker.hash, "Ready")
        assert example.variant(found)["uuid"] != before
        assert not place.condition(found, "Suspect")
        with here.pod(worker.pod("suspect-warm")) as pod:
            place.assert_warm(here.live, pod)
    here.forget(worker)


def test_a_failed_checkpoint_says_why_and_is_tried_again(here: place.Place) -> None:
    worker = tiny.Worker("tiny/failing")
    wanted = worker.checkpoint(backoff=1)
    container = wanted["spec"]["job"]["podTemplateSpec"]["spec"]["containers"][0]
    right = list(container["command"])
    container["command"] = ["python3", "-c", "raise SystemExit(7)"]
    here.live.apply(wanted, namespace=here.namespace)
    found = here.wait_phase(worker.hash, "Failed")
    assert found["status"]["captures"][0]["phase"] == "Failed"
    assert "job/checkpoint-" in found["status"]["message"]
    container["command"] = right
    here.live.apply(wanted, namespace=here.namespace)
    here.wait_phase(worker.hash, "Ready")
    here.forget(worker)


def test_a_deadline_counts_running_time(here: place.Place) -> None:
    worker = tiny.Worker("tiny/deadline", serves=False)
    wanted = worker.checkpoint(backoff=3)
    wanted["spec"]["job"]["activeDeadlineSeconds"] = 4
    here.live.apply(wanted, namespace=here.namespace)
    found = here.wait_reason(worker.hash, "DeadlineExceeded")
    assert found["status"]["phase"] == "Failed"
    selector = f"nvidia.com/chrek-checkpoint-hash={worker.hash}"
    assert len(here.pods_of(selector)) == 1, "no second attempt"
    here.forget(worker)


def test_a_pod_that_is_not_admitted(strict: place.Place) -> None:
    worker = tiny.Worker("tiny/refused")
    wanted = worker.checkpoint()
    spec = wanted["spec"]["job"]["podTemplateSpec"]["spec"]
    spec["securityContext"].pop("runAsNonRoot")
    strict.live.apply(wanted, namespace=strict.namespace)
    found = strict.wait_reason(worker.hash, "PodRefused")
    assert "restricted" in found["status"]["message"]
    time.sleep(2)
    after = strict.checkpoint(worker.hash)["metadata"]["resourceVersion"]
    assert after == found["metadata"]["resourceVersion"], "it is asked again, and says it once"
    strict.forget(worker)


def test_pods_of_the_status_are_named(here: place.Place, counter: tiny.Worker) -> None:
    """The last restore is noted, and nothing else that changes at rest."""
    with here.pod(counter.pod("noted")) as pod:
        place.assert_warm(here.live, pod)
        cluster.wait_until(
            lambda: "lastRestoredAt" in example.variant(here.checkpoint(counter.hash)),
            lambda: f"noted: {here.checkpoint(counter.hash)['status']} {pods.name(pod)}",
            timeout=20,
        )
