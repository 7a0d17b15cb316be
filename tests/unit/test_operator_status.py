"""How a checkpoint's status moves while captures, artifacts and workers come and go."""

import datetime

import hypothesis
import pytest
from hypothesis import stateful, strategies

from chrek.operator import captures, conditions, housekeeping, place, status, templates
from fakes import captures as fakes

HASH = fakes.HASH
PLAIN = f"checkpoint-{HASH}"
A = fakes.name_of()
IMAGES = [f"llama:{number}" for number in range(1, 8)]
RETRY = "chrek.nvidia.com/retry"


def reason(made):
    return conditions.get(made, "Ready")["reason"]


def told(made):
    return made["phase"], reason(made)


def entries(made):
    return {entry["variant"]: entry for entry in made.get("captures") or []}


def usable(made):
    return {one["name"]: one["uuid"] for one in made.get("variants") or []}


def ready(item=None, **fields):
    cluster = fakes.Cluster(item, **fields)
    cluster.capture()
    assert told(cluster.item["status"]) == ("Ready", "Checkpointed")
    return cluster


def test_a_life():
    cluster, seen = fakes.Cluster(), []

    def look():
        decision = cluster.look()
        seen.append((*told(decision.status), [a.value for a, _ in decision.actions]))

    look()
    look()
    look()
    cluster.run()
    look()
    cluster.run(phase="Succeeded", result=fakes.success())
    cluster.end()
    look()
    cluster.jobs.clear()
    look()
    assert seen == [
        ("Pending", "WaitingForPod", ["create the job"]),
        ("Pending", "WaitingForPod", ["create the job"]),
        ("Pending", "WaitingForPod", []),
        ("Creating", "Capturing", []),
        ("Ready", "Checkpointed", []),
        ("Ready", "Checkpointed", []),
    ]
    made = cluster.item["status"]
    assert cluster.writes == 3
    assert made["identityHash"] == HASH
    assert made["identity"] == {
        "model": "meta-llama/Llama-3-8B",
        "backendFramework": "vllm",
        "tensorParallelSize": 1,
        "pipelineParallelSize": 1,
    }
    assert made["location"] == f"/checkpoints/{HASH}"
    assert made["jobName"] == PLAIN
    assert (made["storageType"], made["size"]) == ("pvc", "3.0Gi")
    assert made["createdAt"] == "2026-01-29T10:05:00Z"
    assert "captures" not in made
    assert made["variants"] == [
        {
            "name": A,
            "uuid": "u-1",
            "digest": "d-1",
            "image": "llama:1",
            "node": "n1",
            "bytes": 3 << 30,
            "createdAt": "2026-01-29T10:05:00Z",
            "steps": {"dump": 1.5},
        }
    ]


@pytest.mark.parametrize("kind", ["s3", "oci"])
def test_the_location_on_a_server_is_a_uri(kind):
    made = ready(where=place.Place(kind, f"{kind}://a/b")).item["status"]
    assert (made["storageType"], made["location"]) == (kind, f"{kind}://a/b/{HASH}")


def test_everything_happened_while_the_operator_was_away():
    cluster = fakes.Cluster()
    cluster.settle()
    cluster.run(phase="Succeeded", result=fakes.success())
    cluster.end()
    phases = [cluster.look().status["phase"] for _ in range(3)]
    assert phases == ["Creating", "Ready", "Ready"]


def test_a_deleted_job_is_made_again():
    cluster = fakes.Cluster()
    cluster.settle()
    cluster.run()
    cluster.settle()
    cluster.jobs.clear()
    assert cluster.look().status["phase"] == "Pending"
    cluster.settle()
    assert len(cluster.created) == 2


def test_a_corrected_spec_is_tried_again():
    cluster = fakes.Cluster()
    cluster.settle()
    cluster.run(phase="Failed", result=fakes.CRIU)
    cluster.end("Failed")
    assert told(cluster.settle()) == ("Failed", "JobFailed")
    cluster.item["spec"]["job"]["podTemplateSpec"] = fakes.template(nodeSelector={"gpu": "a"})
    cluster.item["metadata"]["generation"] = 2
    made = cluster.settle()
    assert (made["phase"], made["observedGeneration"]) == ("Pending", 2)
    assert cluster.deleted == [PLAIN]
    assert len(set(cluster.created)) == len(cluster.created) == 2


def test_a_pending_one_that_is_corrected_is_tried_again():
    """Its Job may wait for ever, for a node that there is none of."""
    cluster = fakes.Cluster()
    cluster.settle()
    cluster.run(waits=fakes.FULL)
    assert told(cluster.settle()) == ("Pending", "WaitingForResources")
    cluster.item["spec"]["job"]["podTemplateSpec"] = fakes.template(nodeSelector={"gpu": "a"})
    made = cluster.settle()
    assert told(made) == ("Pending", "WaitingForPod")
    assert (cluster.deleted, len(cluster.created)) == ([PLAIN], 2)


def test_a_capture_under_way_is_not_disturbed_by_a_new_template():
    cluster = fakes.Cluster()
    cluster.settle()
    cluster.run()
    cluster.settle()
    cluster.item["spec"]["job"]["podTemplateSpec"] = fakes.template(nodeSelector={"gpu": "a"})
    assert cluster.settle()["phase"] == "Creating"
    assert cluster.deleted == []


def test_a_ready_checkpoint_stays_ready_when_its_job_goes():
    cluster = ready()
    cluster.jobs.clear()
    cluster.item["metadata"]["generation"] = 2
    before = cluster.item["status"]
    made = cluster.settle()
    assert conditions.difference(before, made) == {"observedGeneration": 2}


def test_another_image_is_a_second_variant():
    cluster = ready()
    cluster.item["spec"]["job"]["podTemplateSpec"] = fakes.template("llama:2")
    made = cluster.settle()
    assert made["phase"] == "Pending"
    assert usable(made) == {A: "u-1"}, "the first one goes on being used"
    name = entries(made)[fakes.name_of("llama:2")]["jobName"]
    cluster.run(name, image="llama:2")
    cluster.settle()
    cluster.run(name, phase="Succeeded", image="llama:2", result=fakes.success("u-2", "llama:2"))
    made = cluster.settle()
    assert made["phase"] == "Ready"
    assert list(usable(made)) == [fakes.name_of("llama:2"), A], "the newest first"
    assert made["size"] == "6.0Gi"
    assert "garbage" not in made


def test_a_variant_that_failed_leaves_the_first_ready_and_says_so():
    cluster = ready(wanted=[fakes.wanted("llama:2")])
    made = cluster.settle()
    name = entries(made)[fakes.name_of("llama:2")]["jobName"]
    cluster.run(name, phase="Failed", image="llama:2", result=fakes.CRIU)
    cluster.settle()
    cluster.end("Failed", name)
    made = cluster.settle()
    assert told(made) == ("Ready", "Checkpointed")
    assert "(llama:2): CriuFailed: criu dump" in made["message"]


def test_two_captures_at_once_have_two_jobs_and_its_own_has_the_plain_name():
    cluster = fakes.Cluster(wanted=[fakes.wanted("llama:2")])
    made = cluster.settle()
    other = fakes.name_of("llama:2")
    assert {v: e["jobName"] for v, e in entries(made).items()} == {
        A: PLAIN,
        other: f"{PLAIN}-{other[:8]}",
    }
    assert made["jobName"] == PLAIN
    assert len(cluster.jobs) == 2


def full():
    """Four variants, all in use."""
    cluster = fakes.Cluster(wanted=[fakes.wanted(image) for image in IMAGES[1:4]])
    cluster.settle()
    for number, image in enumerate(IMAGES[:4]):
        name = entries(cluster.item["status"])[fakes.name_of(image)]["jobName"]
        cluster.capture(name, f"u-{number}", image)
    assert len(usable(cluster.item["status"])) == 4
    return cluster


def test_more_variants_than_there_is_room_for_wait():
    cluster = full()
    before = usable(cluster.item["status"])
    cluster.wanted.append(fakes.wanted(IMAGES[4]))
    made = cluster.settle()
    assert usable(made) == before
    assert entries(made)[fakes.name_of(IMAGES[4])]["reason"] == "TooManyVariants"
    assert len(cluster.created) == 4
    del cluster.wanted[0]
    made = cluster.settle()
    entry = entries(made)[fakes.name_of(IMAGES[4])]
    assert entry["reason"] == "WaitingForPod"
    made = cluster.capture(entry["jobName"], "u-9", IMAGES[4])
    # What nobody wants any more makes room, and its files go.
    assert fakes.name_of(IMAGES[1]) not in usable(made)
    assert made["garbage"] == [f"{fakes.name_of(IMAGES[1])}/u-1"]


def test_a_lost_artifact_keeps_its_place():
    cluster = full()
    cluster.item["metadata"]["labels"] = {"nvidia.com/chrek-auto": "true"}
    # What is wanted first comes first.
    cluster.wanted.insert(0, fakes.wanted(IMAGES[4]))
    cluster.settle()
    made = lose(cluster, "u-3")
    assert entries(made)[fakes.name_of(IMAGES[4])]["reason"] == "TooManyVariants"
    entry = entries(made)[fakes.name_of(IMAGES[3])]
    assert (entry["reason"], entry["remade"]) == ("ArtifactMissing", 1)
    later(cluster, 31)
    assert len(cluster.created) == 5


def test_its_own_variant_has_room_before_those_of_others():
    cluster = fakes.Cluster(wanted=[fakes.wanted(image) for image in IMAGES[1:7]])
    made = cluster.settle()
    waiting = {v for v, e in entries(made).items() if e["reason"] == "TooManyVariants"}
    assert waiting == {fakes.name_of(image) for image in IMAGES[4:7]}
    assert entries(made)[A]["jobName"] == PLAIN
    assert len(cluster.created) == 4


def test_the_least_recently_used_goes_first():
    cluster = ready()
    for number, image in enumerate(IMAGES[1:4], start=2):
        cluster.item["spec"]["job"]["podTemplateSpec"] = fakes.template(image)
        cluster.capture(uuid=f"u-{number}", image=image)
    used = fakes.worker("w", "restored", uuid="u-1", at="2026-01-29T11:00:00Z")
    cluster.workers = [used]
    cluster.item["spec"]["job"]["podTemplateSpec"] = fakes.template(IMAGES[4])
    made = cluster.capture(uuid="u-5", image=IMAGES[4])
    assert set(usable(made).values()) == {"u-1", "u-3", "u-4", "u-5"}
    assert made["garbage"] == [f"{fakes.name_of('llama:2')}/u-2"]


def test_what_nobody_wants_any_more_is_not_captured():
    cluster = ready(wanted=[fakes.wanted("llama:2")])
    cluster.settle()
    assert len(cluster.created) == 2
    before = len(cluster.deleted)
    cluster.wanted.clear()
    assert "captures" not in cluster.settle()
    assert len(cluster.deleted) == before + 1


@pytest.mark.parametrize("failed", [False, True])
def test_a_restarted_operator_abandons_nothing_before_it_knows_what_is_wanted(failed):
    cluster = ready(wanted=[fakes.wanted("llama:2")])
    cluster.settle()
    if failed:
        cluster.run(image="llama:2", phase="Failed")
        cluster.end("Failed")
        cluster.settle()
    before, deleted = cluster.item["status"], len(cluster.deleted)
    wanted, cluster.wanted, cluster.complete = cluster.wanted, [], False
    assert cluster.look().again_seconds == status.INCOMPLETE_SECONDS
    assert cluster.settle() == before
    cluster.wanted, cluster.complete = wanted, True
    assert cluster.settle() == before
    assert len(cluster.deleted) == deleted


# Lost and suspect artifacts.


def lose(cluster, uuid, why="ArtifactMissing"):
    bad = fakes.worker(f"w-{uuid}", "cold", reason=why, uuid=uuid, message="no such directory")
    cluster.workers = [*cluster.workers, bad]
    return cluster.settle()


def later(cluster, seconds):
    cluster.now += datetime.timedelta(seconds=seconds)
    return cluster.settle()


def test_a_lost_artifact_is_made_again_once_after_a_while():
    cluster = ready(fakes.checkpoint(auto=True))
    cluster.jobs.clear()
    made = lose(cluster, "u-1")
    assert told(made) == ("Pending", "ArtifactMissing")
    assert "it is made again" in made["message"]
    assert usable(made) == {}
    assert len(cluster.created) == 1, "whatever lost it may still be at work"
    assert 0 < cluster.look().again_seconds <= 31
    later(cluster, 31)
    assert len(cluster.created) == 2
    made = cluster.capture(uuid="u-2")
    assert told(made) == ("Ready", "Checkpointed")
    assert usable(made) == {A: "u-2"}
    assert made["garbage"] == [f"{A}/u-1"], "there is another: the files of the lost one go"
    made = lose(cluster, "u-2")
    assert told(made) == ("Failed", "ArtifactMissing")
    assert "made again once already" in made["message"]
    assert f"kubectl annotate dckpt c {RETRY}" in made["message"]
    later(cluster, 1000)
    assert len(cluster.created) == 2


def test_the_old_job_s_result_does_not_bring_a_lost_artifact_back():
    cluster = ready(fakes.checkpoint(auto=True))
    lose(cluster, "u-1")
    later(cluster, 31)
    made = cluster.settle()
    assert made["phase"] == "Pending"
    assert usable(made) == {}
    assert cluster.deleted == [PLAIN]


def test_files_stay_while_there_is_no_other():
    """One node's word deletes nothing: its mount may be what is broken."""
    cluster = ready()
    made = lose(cluster, "u-1")
    assert "garbage" not in made
    assert entries(made)[A]["lost"] == [f"{A}/u-1"]


def test_an_artifact_that_a_person_had_made_is_not_made_again():
    cluster = ready()
    made = lose(cluster, "u-1", "DigestMismatch")
    assert told(made) == ("Failed", "DigestMismatch")
    assert "was not made by chrek itself" in made["message"]
    later(cluster, 1000)
    assert len(cluster.created) == 1


def test_a_lost_variant_that_nobody_wanted_stays_failed_when_somebody_does():
    second = fakes.wanted("llama:2")
    cluster = ready(wanted=[second])
    name = entries(cluster.item["status"])[second.variant]["jobName"]
    cluster.capture(name, "u-2", "llama:2")
    cluster.wanted, cluster.complete = [], False
    lose(cluster, "u-2")
    cluster.wanted, cluster.complete = [second], True
    made = cluster.settle()
    assert entries(made)[second.variant]["phase"] == "Failed"
    assert entries(made)[second.variant]["template"] == second.digest()
    assert len(cluster.created) == 2
    cluster.wanted = [fakes.wanted("llama:2", nodeSelector={"gpu": "a"})]
    assert entries(cluster.settle())[second.variant]["phase"] == "Pending"


def test_three_pods_make_an_artifact_suspect_and_a_retry_makes_another():
    cluster = ready()
    for number in range(3):
        made = cluster.settle()
        assert told(made) == ("Ready", "Checkpointed")
        cluster.workers.append(fakes.worker(f"w{number}", "unhealthy", uuid="u-1"))
    made = cluster.settle()
    assert told(made) == ("Failed", "Suspect")
    assert conditions.get(made, "Suspect")["status"] == "True"
    assert made["variants"][0]["suspect"] is True
    assert len(cluster.created) == 1, "it is not made again by itself"
    cluster.workers.clear()
    assert told(cluster.settle()) == ("Failed", "Suspect"), "pods come and go"
    cluster.item["metadata"]["annotations"] = {RETRY: "now"}
    made = cluster.settle()
    assert made["phase"] == "Pending"
    assert made["garbage"] == [f"{A}/u-1"]
    made = cluster.capture(uuid="u-2")
    assert told(made) == ("Ready", "Checkpointed")
    assert conditions.get(made, "Suspect") is None


def test_a_retry_is_taken_exactly_once():
    cluster = fakes.Cluster()
    for attempt in range(1, 4):
        cluster.item["metadata"]["annotations"] = {RETRY: f"try {attempt}"}
        cluster.settle()
        cluster.run(phase="Failed", result=fakes.CRIU, uid=f"p{attempt}")
        cluster.settle()
        cluster.end("Failed")
        assert told(cluster.settle()) == ("Failed", "CriuFailed")
        assert len(cluster.created) == attempt
    assert cluster.settle()["retried"] == "try 3"
    assert len(set(cluster.created)) == 3


def test_a_retry_disturbs_neither_captures_under_way_nor_artifacts():
    cluster = ready(wanted=[fakes.wanted("llama:2")])
    cluster.settle()
    before = cluster.item["status"]
    cluster.item["metadata"]["annotations"] = {RETRY: "now"}
    made = cluster.settle()
    assert conditions.difference(before, made) == {"retried": "now"}


def test_a_deadline_fails_it_and_ends_the_job():
    cluster = fakes.Cluster()
    cluster.settle()
    cluster.run()
    cluster.settle()
    cluster.run(phase="Failed", why="DeadlineExceeded")
    assert told(cluster.settle()) == ("Failed", "DeadlineExceeded")
    assert PLAIN in cluster.ended


# Serving pods.

WORKER = {"captureSource": "worker"}


def from_worker(**fields):
    return fakes.Cluster(fakes.checkpoint(spec=WORKER), **fields)


def serving(cluster, *pods):
    cluster.workers = list(pods)
    cluster.wanted = [templates.Wanted(variant=pod.variant, image="", template={}) for pod in pods]
    return cluster.settle()


def test_a_serving_pod_is_captured():
    cluster = from_worker()
    assert told(cluster.settle()) == ("Pending", "WaitingForWorker")
    assert told(serving(cluster, fakes.worker("w", ready=False)))[0] == "Pending"
    made = serving(cluster, fakes.worker("w"))
    assert told(made) == ("Creating", "Capturing")
    (entry,) = made["captures"]
    assert entry["pods"] == [{"name": "pod-w", "uid": "w"}]
    assert "jobName" not in entry
    made = serving(cluster, fakes.worker("w", result=fakes.success()))
    assert told(made) == ("Ready", "Checkpointed")
    assert usable(made) == {A: "u-1"}
    assert cluster.created == []


def test_a_capture_survives_the_pod_s_deletion():
    cluster = from_worker()
    serving(cluster, fakes.worker("w1"))
    assert told(serving(cluster))[0] == "Pending"
    made = serving(cluster, fakes.worker("w2"))
    assert entries(made)[A]["pods"][-1]["uid"] == "w2"


def test_the_lost_artifact_of_a_worker_that_nobody_wants_is_no_phase():
    """Only how often it was lost is remembered; that is no state of a capture."""
    cluster = fakes.Cluster(fakes.checkpoint(spec=WORKER, auto=True))
    serving(cluster, fakes.worker("w1"))
    serving(cluster, fakes.worker("w1", result=fakes.success()))
    lost = fakes.worker("w2", "cold", reason="ArtifactMissing", uuid="u-1")
    serving(cluster, lost)
    made = later(cluster, 31)
    assert entries(made)[A]["pods"][-1]["uid"] == "w2"
    done = fakes.worker("w2", "cold", uuid="u-1", result=fakes.success("u-2"))
    assert entries(serving(cluster, done))[A] == {"variant": A, "phase": "Ready", "remade": 1}
    bad = [fakes.worker(f"x{n}", "unhealthy", uuid="u-2") for n in range(3)]
    assert told(serving(cluster, *bad)) == ("Failed", "Suspect")
    serving(cluster)
    cluster.item["metadata"]["annotations"] = {RETRY: "now"}
    made = cluster.settle()
    assert told(made) == ("Pending", "WaitingForWorker")
    assert usable(made) == {}


# Housekeeping: what is pruned, and whether there is room.


def chosen(*uuids):
    """Removals of artifacts, by UUID."""
    found = {}
    for uuid in uuids:
        gone = housekeeping.Artifact("ns", HASH, "c", "v", uuid, 3 << 30, fakes.NOW)
        found[uuid] = housekeeping.Removal(gone, housekeeping.Rule.UNUSED, "not used for weeks")
    return found


def users(*variants, named=None, graph=False):
    named = graph or bool(variants) if named is None else named
    return housekeeping.Users(frozenset(variants), named=named, graph=graph)


def pruned(**fields):
    cluster = ready(fakes.checkpoint(auto=True), **fields)
    cluster.removals = chosen("u-1")
    cluster.settle()
    return cluster


def test_a_pruned_artifact_is_deleted_and_says_why():
    cluster = ready(fakes.checkpoint(auto=True))
    cluster.removals = chosen("u-1")
    decision = cluster.look()
    assert [removal.artifact.uuid for removal in decision.pruned] == ["u-1"]
    made = cluster.settle()
    assert told(made) == ("Pending", "Pruned")
    assert "not used for weeks; it is made again when a workload asks for it" in made["message"]
    assert RETRY in made["message"]
    assert made["garbage"] == [f"{A}/u-1"]
    assert not {"variants", "size", "location", "createdAt"} & made.keys()
    assert cluster.look().pruned == [], "it is told once"
    assert len(cluster.created) == 1, "it is not made again at once"


def test_a_pruned_variant_that_nobody_wants_leaves_nothing():
    cluster = ready(wanted=[fakes.wanted("llama:2")])
    name = entries(cluster.item["status"])[fakes.name_of("llama:2")]["jobName"]
    cluster.capture(name, "u-2", "llama:2")
    cluster.wanted.clear()
    cluster.removals = chosen("u-2", "u-3")
    made = cluster.settle()
    assert told(made) == ("Ready", "Checkpointed")
    assert (usable(made), made["garbage"]) == ({A: "u-1"}, [f"{fakes.name_of('llama:2')}/u-2"])
    assert "captures" not in made


@pytest.mark.parametrize(
    ("found", "again"),
    [
        (users(), False),
        (users(fakes.name_of("llama:9"), named=False), False),
        (users(A), True),
        (users(named=True), True),
        (users(graph=True), True),
    ],
)
def test_a_pruned_variant_is_made_again_when_a_workload_asks_for_it(found, again):
    cluster = pruned()
    cluster.users = found
    cluster.settle()
    assert len(cluster.created) == (2 if again else 1)
    if not again:
        return
    made = cluster.item["status"]
    assert told(made) == ("Pending", "WaitingForPod")
    assert cluster.deleted == [PLAIN], "the old Job's result does not bring it back"
    assert len(set(cluster.created)) == 2
    made = cluster.capture(uuid="u-2")
    assert told(made) == ("Ready", "Checkpointed")
    assert usable(made) == {A: "u-2"}


def test_a_pruned_variant_beside_another_waits_for_its_own_pods():
    """A pod names the checkpoint, and is of the other variant."""
    cluster = ready(fakes.checkpoint(auto=True), wanted=[fakes.wanted("llama:2")])
    name = entries(cluster.item["status"])[fakes.name_of("llama:2")]["jobName"]
    cluster.capture(name, "u-2", "llama:2")
    cluster.removals, cluster.users = chosen("u-1"), users(named=True)
    made = cluster.settle()
    assert told(made) == ("Pending", "Pruned")
    assert len(cluster.created) == 2
    for found in (users(A), users(graph=True)):
        cluster.users = found
        assert told(cluster.look().status) == ("Pending", "WaitingForPod")
        cluster.item = {**cluster.item, "status": made}


def test_a_person_has_a_pruned_one_made_again():
    cluster = pruned()
    cluster.item["metadata"]["annotations"] = {RETRY: "now"}
    assert told(cluster.settle()) == ("Pending", "WaitingForPod")
    assert told(cluster.capture(uuid="u-2")) == ("Ready", "Checkpointed")
    cluster.now += datetime.timedelta(days=1)
    cluster.removals = chosen("u-2")
    assert told(cluster.settle()) == ("Pending", "Pruned"), "the annotation was taken once"


def test_a_pruned_variant_takes_no_place():
    cluster = full()
    cluster.wanted.append(fakes.wanted(IMAGES[4]))
    made = cluster.settle()
    assert entries(made)[fakes.name_of(IMAGES[4])]["reason"] == "TooManyVariants"
    cluster.removals = chosen("u-3")
    made = cluster.settle()
    assert entries(made)[fakes.name_of(IMAGES[3])]["reason"] == "Pruned"
    assert entries(made)[fakes.name_of(IMAGES[4])]["reason"] == "WaitingForPod"
    # And waits for one, as any other, when it is asked for again.
    cluster.users = users(fakes.name_of(IMAGES[3]))
    made = cluster.settle()
    assert entries(made)[fakes.name_of(IMAGES[3])]["reason"] == "TooManyVariants"
    cluster.wanted.pop()
    made = cluster.settle()
    entry = entries(made)[fakes.name_of(IMAGES[3])]
    assert entry["reason"] == "WaitingForPod"
    assert len(set(cluster.created)) == len(cluster.created) == 6, "the old Job is not taken for it"


def test_a_lost_artifact_is_not_pruned_too():
    cluster = ready(fakes.checkpoint(auto=True))
    cluster.removals = chosen("u-1")
    made = lose(cluster, "u-1")
    assert told(made) == ("Pending", "ArtifactMissing")


def test_no_capture_begins_while_the_store_is_nearly_full():
    cluster = fakes.Cluster()
    cluster.refusal = "95 of 100"
    made = cluster.settle()
    assert told(made) == ("Pending", "StoreNearlyFull")
    assert (made["message"], cluster.created) == ("95 of 100", [])
    cluster.refusal = "97 of 100"
    assert cluster.settle()["message"] == "97 of 100"
    cluster.refusal = None
    assert told(cluster.settle()) == ("Pending", "StoreNearlyFull")
    assert cluster.look().again_seconds == status.INCOMPLETE_SECONDS
    cluster.refusal = ""
    assert told(cluster.settle()) == ("Pending", "WaitingForPod")
    assert len(cluster.created) == 1
    assert told(cluster.capture()) == ("Ready", "Checkpointed")


def test_what_is_not_known_yet_says_nothing():
    cluster = fakes.Cluster()
    cluster.refusal = None
    assert told(cluster.settle()) == ("Pending", "WaitingForPod")
    assert cluster.created == []


def test_a_capture_that_runs_goes_on_in_a_full_store():
    cluster = fakes.Cluster()
    cluster.settle()
    cluster.refusal = "full"
    assert told(cluster.settle()) == ("Pending", "WaitingForPod")
    assert told(cluster.capture()) == ("Ready", "Checkpointed")


def test_an_attempt_after_a_failed_one_waits_for_room_too():
    cluster = fakes.Cluster()
    cluster.settle()
    cluster.run(phase="Failed", result=fakes.CRIU)
    cluster.end("Failed")
    cluster.settle()
    cluster.refusal = "full"
    cluster.item["spec"]["job"]["podTemplateSpec"] = fakes.template(nodeSelector={"gpu": "a"})
    assert told(cluster.settle()) == ("Pending", "StoreNearlyFull")
    assert len(cluster.created) == 1
    cluster.refusal = ""
    cluster.settle()
    assert len(cluster.created) == 2


def test_no_serving_pod_is_frozen_for_a_full_store():
    cluster = from_worker()
    cluster.refusal = "full"
    made = serving(cluster, fakes.worker("w"))
    assert told(made) == ("Pending", "StoreNearlyFull")
    assert "pods" not in made["captures"][0]
    assert told(serving(cluster, fakes.worker("w", ready=False))) == ("Pending", "WaitingForWorker")
    cluster.refusal = ""
    assert told(serving(cluster, fakes.worker("w"))) == ("Creating", "Capturing")
    cluster.refusal = "full"
    made = serving(cluster, fakes.worker("w", result=fakes.success()))
    assert told(made) == ("Ready", "Checkpointed")


def test_a_ready_checkpoint_stays_ready_while_another_variant_waits_for_room():
    cluster = ready()
    cluster.refusal = "full"
    cluster.wanted.append(fakes.wanted("llama:2"))
    made = cluster.settle()
    assert told(made) == ("Ready", "Checkpointed")
    assert entries(made)[fakes.name_of("llama:2")]["reason"] == "StoreNearlyFull"


# Any order of events.


class Life(stateful.RuleBasedStateMachine):
    """The operator is killed, its memory is old, events come in any order."""

    def __init__(self):
        super().__init__()
        self.cluster = fakes.Cluster(fakes.checkpoint(auto=True), wanted=[fakes.wanted("llama:2")])
        self.uuids = 0

    def job(self, draw_last):
        names = sorted(self.cluster.jobs)
        return names[-1 if draw_last else 0] if names else None

    @stateful.rule(sync=strategies.booleans(), killed=strategies.booleans())
    def look(self, sync, killed):
        self.cluster.look(sync=sync, killed=killed)

    @stateful.rule(last=strategies.booleans(), waits=strategies.booleans())
    def a_pod_starts(self, last, waits):
        name = self.job(last)
        if name and not self.cluster.jobs[name]["status"]["conditions"]:
            self.uuids += 1
            image = self.image(name)
            self.cluster.run(
                name, uid=f"p{self.uuids}", image=image, waits=fakes.FULL if waits else ""
            )

    @stateful.rule(last=strategies.booleans(), how=strategies.sampled_from("sfnd"))
    def a_job_ends(self, last, how):
        name = self.job(last)
        if not name or self.cluster.jobs[name]["status"]["conditions"]:
            return
        found = self.cluster.pods.get(self.cluster.jobs[name]["metadata"]["uid"]) or []
        if not found:
            return
        self.uuids += 1
        image, uid = self.image(name), found[-1].uid
        fields = {
            "s": {"phase": "Succeeded", "result": fakes.success(f"u-{self.uuids}", image)},
            "f": {"phase": "Failed", "result": fakes.CRIU},
            "n": {"phase": "Succeeded"},
            "d": {"phase": "Failed", "why": "DeadlineExceeded"},
        }[how]
        self.cluster.run(name, uid=uid, image=image, **fields)
        if how != "d":
            self.cluster.end("Failed" if how == "f" else "Complete", name)

    def image(self, name):
        status_ = self.cluster.item["status"]
        found = [e for e in status_.get("captures") or [] if e.get("jobName") == name]
        return found[0]["image"] if found else "llama:1"

    @stateful.rule()
    def an_artifact_is_lost(self):
        for uuid in usable(self.cluster.item.get("status") or {}).values():
            bad = fakes.worker(f"w{uuid}", reason="ArtifactMissing", uuid=uuid)
            self.cluster.workers = [bad]

    @stateful.rule(last=strategies.booleans())
    def an_artifact_is_pruned(self, last):
        found = sorted(usable(self.cluster.item.get("status") or {}).values())
        if found:
            self.cluster.removals = chosen(found[-1 if last else 0])

    @stateful.rule(image=strategies.sampled_from([None, "llama:1", "llama:2"]))
    def somebody_asks_for_it(self, image):
        self.cluster.users = users(*[fakes.name_of(image)] if image else [])

    @stateful.rule(refusal=strategies.sampled_from(["", None, "it is full"]))
    def the_store_fills_or_empties(self, refusal):
        self.cluster.refusal = refusal

    @stateful.rule(seconds=strategies.sampled_from([10, 100]))
    def time_passes(self, seconds):
        self.cluster.now += datetime.timedelta(seconds=seconds)

    @stateful.rule(number=strategies.integers(0, 2))
    def a_person_asks_for_a_retry(self, number):
        annotations = {**self.cluster.item["metadata"].get("annotations", {}), RETRY: str(number)}
        metadata = {**self.cluster.item["metadata"], "annotations": annotations}
        self.cluster.item = {**self.cluster.item, "metadata": metadata}

    @stateful.invariant()
    def no_variant_is_twice_usable(self):
        variants = (self.cluster.item.get("status") or {}).get("variants") or []
        assert len({v["name"] for v in variants}) == len(variants) <= status.MAX_VARIANTS

    @stateful.invariant()
    def what_is_used_is_no_garbage(self):
        found = self.cluster.item.get("status") or {}
        paths = {f"{v['name']}/{v['uuid']}" for v in found.get("variants") or []}
        assert not paths & set(found.get("garbage") or [])

    def teardown(self):
        self.cluster.settle()
        self.cluster.refusal, self.cluster.users = "", housekeeping.Users()
        self.cluster.now += datetime.timedelta(seconds=1000)
        made = self.cluster.settle()
        # At rest: the same world gives the same status, for every variant there is an answer.
        assert conditions.difference(made, self.cluster.decide().status) == {}
        assert {A, fakes.name_of("llama:2")} <= {*usable(made), *entries(made)}
        # Everything can still become Ready.
        annotations = {RETRY: "at last"}
        self.cluster.item["metadata"] = {
            **self.cluster.item["metadata"],
            "annotations": annotations,
        }
        self.cluster.workers = []
        for image in ("llama:1", "llama:2"):
            found = entries(self.cluster.settle()).get(fakes.name_of(image))
            if found and found["phase"] != "Ready":
                self.uuids += 1
                for old in list(self.cluster.pods.values()):
                    old.clear()
                job = self.cluster.jobs[found["jobName"]]
                job["status"]["conditions"] = []
                self.cluster.capture(found["jobName"], f"u-{self.uuids}", image)
        made = self.cluster.settle()
        assert {A, fakes.name_of("llama:2")} <= usable(made).keys()
        assert made["phase"] == "Ready"


TestLife = Life.TestCase
TestLife.settings = hypothesis.settings(max_examples=60, stateful_step_count=25, deadline=None)


@hypothesis.given(strategies.lists(strategies.tuples(strategies.booleans(), strategies.booleans())))
def test_one_job_for_an_attempt(looks):
    """However often the operator is killed, and however old its memory is."""
    cluster = fakes.Cluster(wanted=[fakes.wanted("llama:2")])
    for sync, killed in looks:
        cluster.look(sync=sync, killed=killed)
    cluster.settle()
    assert len(cluster.jobs) == 2
    assert len(cluster.created) == len(set(cluster.created)) == 2
    assert captures.Action.CREATE_JOB not in {a for a, _ in cluster.look().actions}
