"""What becomes of a restored worker, as the kubelet tells it; time is shortened."""

import asyncio

import msgspec
import pytest

from chrek import errors
from chrek.agent import journal, probation
from fakes import projected

SECONDS = 0.2
POD = msgspec.structs.replace(projected.POD, container_id="c1")
PROBED = msgspec.structs.replace(POD, has_readiness_probe=True)
READY = msgspec.structs.replace(PROBED, ready=True)
RECORD = journal.Record(pod="ns/p", state="restored", uuid="u-1", variant="aaaa", container="c1")


def died(pod=POD, code=1, **changed):
    return msgspec.structs.replace(pod, exits={"c1": code}, **changed)


class Scene:
    def __init__(self, path):
        self.path = path
        self.reporter = projected.Reporter()
        self.journal = journal.Journal(path)
        self.asked = 0
        self.there = []
        self.restart()

    def restart(self):
        """Another agent, with the journal of the one before it."""
        self.journal = journal.Journal(self.path)
        self.trial = probation.Probation(
            self.reporter, self.journal, look=self.look, seconds=SECONDS
        )

    async def look(self, pod):
        """The API server: what it answers, one after the other, then for ever."""
        self.asked += 1
        answer = self.there.pop(0) if len(self.there) > 1 else self.there[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def state(self):
        record = self.journal.get("uid-1")
        return record and (record.state, str(record.reason))

    def told(self):
        return [(s.outcome, str(s.reason), s.uuid, s.variant) for _, s in self.reporter.starts]

    async def over(self, *, seconds=SECONDS):
        await asyncio.sleep(seconds + 0.1)


@pytest.fixture
async def scene(tmp_path):
    return Scene(tmp_path)


DIED = ("failed", "WorkerDied")
NEVER = ("failed", "NeverReady")


async def test_a_worker_that_lives(scene):
    scene.trial.begin(POD, RECORD)
    assert scene.state == ("restored", "")
    await scene.over()
    assert scene.state is None
    assert scene.told() == []
    # What happens later is no longer the artifact's fault.
    scene.trial.changed(died())
    assert scene.told() == []


async def test_a_worker_that_dies(scene):
    scene.trial.begin(POD, RECORD)
    scene.trial.changed(died(code=139))
    assert scene.state == DIED
    assert scene.told() == [("unhealthy", "WorkerDied", "u-1", "aaaa")]
    assert "exit code 139" in scene.journal.get("uid-1").message
    await scene.over()
    scene.trial.changed(died(code=139))
    assert scene.state == DIED
    assert len(scene.told()) == 1


NO_DEATH = {
    "it ended well": died(code=0),
    "its pod is deleted or evicted": died(code=137, ending=True),
    "another container of the pod ended": msgspec.structs.replace(POD, exits={"c0": 1}),
}


@pytest.mark.parametrize("pod", NO_DEATH.values(), ids=list(NO_DEATH))
async def test_ends_that_are_no_death(scene, pod):
    scene.trial.begin(POD, RECORD)
    scene.trial.changed(pod)
    await scene.over()
    assert scene.state is None
    assert scene.told() == []


async def test_a_pod_that_goes(scene):
    scene.trial.begin(PROBED, RECORD)
    scene.trial.gone("uid-1")
    scene.journal.drop("uid-1")
    await scene.over()
    assert scene.told() == []
    assert scene.asked == 0


async def test_a_worker_that_never_gets_ready(scene):
    scene.there = [PROBED]
    scene.trial.begin(PROBED, RECORD)
    scene.trial.changed(PROBED)
    await scene.over()
    assert scene.state == NEVER
    assert scene.told() == [("unhealthy", "NeverReady", "u-1", "aaaa")]


async def test_ready_for_a_moment_is_ready(scene, caplog):
    caplog.set_level("INFO")
    scene.trial.begin(PROBED, RECORD)
    scene.trial.changed(msgspec.structs.replace(READY, trace="t-1"))
    scene.trial.changed(PROBED)
    scene.trial.changed(READY)
    (line,) = [found for found in caplog.records if found.getMessage() == "restored worker ready"]
    assert (line.trace, line.uuid, line.pod) == ("t-1", "u-1", PROBED.name)
    await scene.over()
    assert scene.state is None
    assert scene.told() == []
    assert scene.asked == 0


async def test_a_worker_that_dies_after_it_was_ready(scene):
    scene.trial.begin(PROBED, RECORD)
    scene.trial.changed(READY)
    scene.trial.changed(died(PROBED))
    assert scene.state == DIED


async def test_the_container_before_it_was_ready(scene):
    """What is left in the status of the one that ran before says nothing of the restored one."""
    scene.there = [PROBED]
    scene.trial.begin(PROBED, RECORD)
    scene.trial.changed(msgspec.structs.replace(READY, container_id="c0"))
    await scene.over()
    assert scene.state == NEVER


async def test_a_slow_prober_is_not_blamed(scene):
    slow = msgspec.structs.replace(PROBED, probe_delay_seconds=1)
    scene.there = [slow]
    scene.trial.begin(slow, RECORD)
    await scene.over()
    assert scene.state == ("restored", "")
    scene.trial.changed(msgspec.structs.replace(slow, ready=True))
    await scene.over(seconds=1)
    assert scene.state is None
    assert scene.told() == []


LATE = {
    "ready": ([READY], None, []),
    "died": ([died(PROBED)], DIED, ["WorkerDied"]),
    "gone": ([None], ("restored", ""), []),
    "going": ([msgspec.structs.replace(PROBED, ending=True)], None, []),
    "unknown": ([msgspec.structs.replace(PROBED, container_id="")], None, []),
    "no answer at first": ([errors.ApiError("no answer"), READY], None, []),
}


@pytest.mark.parametrize(("there", "state", "told"), LATE.values(), ids=list(LATE))
async def test_a_watch_that_is_behind_blames_nobody(scene, there, state, told):
    """Before a worker is blamed for not being ready, the API server itself is asked."""
    scene.there = there
    scene.trial.begin(PROBED, RECORD)
    await scene.over()
    assert scene.asked
    assert scene.state == state
    assert [reason for _, reason, *_ in scene.told()] == told


async def test_an_agent_that_was_started_since(scene):
    scene.trial.begin(POD, RECORD)
    scene.restart()
    scene.trial.changed(died())
    assert scene.state == DIED
    assert scene.told() == [("unhealthy", "WorkerDied", "u-1", "aaaa")]


async def test_an_agent_that_was_started_after_the_end(scene):
    scene.trial.begin(POD, RECORD)
    scene.trial.gone("uid-1")
    await scene.over()
    scene.restart()
    scene.trial.changed(POD)
    await asyncio.sleep(0.05)
    assert scene.state is None


async def test_the_next_container_waits_for_the_word_of_the_kubelet(scene):
    scene.trial.begin(POD, RECORD)
    waiting = asyncio.ensure_future(scene.trial.settle(POD, "c2"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    scene.trial.changed(died(code=0))
    await asyncio.wait_for(waiting, 1)
    assert scene.state is None


async def test_the_next_container_does_not_wait_for_ever(scene, monkeypatch):
    """No word: the worker ended, for the next container is here."""
    monkeypatch.setattr(probation, "VERDICT_SECONDS", 0.02)
    scene.trial.begin(POD, RECORD)
    await scene.trial.settle(POD, "c2")
    assert scene.state == DIED
    assert scene.told() == [("unhealthy", "WorkerDied", "u-1", "aaaa")]


async def test_the_word_may_be_there_already(scene):
    scene.trial.begin(POD, RECORD)
    scene.restart()
    async with asyncio.timeout(0.1):
        await scene.trial.settle(died(), "c2")
    assert scene.state == DIED


async def test_nothing_to_settle(scene):
    async with asyncio.timeout(0.1):
        await scene.trial.settle(POD, "c2")
        scene.trial.begin(POD, RECORD)
        await scene.trial.settle(POD, "c1")
    assert scene.state == ("restored", "")


async def test_a_second_restore_starts_a_second_probation(scene):
    scene.trial.begin(POD, RECORD)
    await asyncio.sleep(SECONDS / 2)
    second = msgspec.structs.replace(RECORD, container="c2")
    scene.trial.begin(POD, second)
    scene.trial.changed(died())
    await asyncio.sleep(SECONDS / 2 + 0.05)
    assert scene.state == ("restored", "")
    scene.trial.changed(msgspec.structs.replace(POD, exits={"c2": 1}))
    assert scene.state == DIED
    assert scene.journal.get("uid-1").container == "c2"
