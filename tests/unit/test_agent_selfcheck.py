"""When checks of the node run, what is known of them, and what one that hangs does."""

import asyncio
import logging
import threading
import types

import prometheus_client as prometheus
import pytest

from chrek import config, errors, storage
from chrek.agent import selfcheck
from chrek.checks import node, report

OK = report.ok("store", "fine")
FAILED = report.failed("store", "EROFS: Read-only file system", "let it be writable")


def check(*answers, name="store", **options):
    """A check that gives these answers, and then the last one again; counts how often it ran."""
    left, ran = [*answers], []

    def run():
        ran.append(1)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    made = selfcheck.Check(name, run, **options)
    return made, ran


def metric(name):
    return prometheus.REGISTRY.get_sample_value("chrek_preflight_failed", {"check": name})


async def test_what_is_known():
    store, clock = check(OK)[0], check(report.warning("clock", "9 s", "set it"), name="clock")[0]
    made = selfcheck.Selfcheck([store, clock])
    assert made.outcomes() == []
    assert made.problems() == ["not looked at yet: store, clock"]
    await made.look(clock)
    assert made.problems() == ["not looked at yet: store"]
    await made.look(store)
    assert [outcome.name for outcome in made.outcomes()] == ["store", "clock"]
    assert made.problems() == []


async def test_a_failure_is_a_problem_until_it_passes():
    store, _ = check(FAILED, OK)
    made = selfcheck.Selfcheck([store])
    assert await made.look(store) == FAILED
    assert made.problems() == ["store: EROFS: Read-only file system (let it be writable)"]
    assert metric("store") == 1
    await made.look(store)
    assert made.problems() == []
    assert metric("store") == 0


@pytest.mark.parametrize(
    ("problem", "status", "detail", "hint"),
    [
        (errors.StoreError("no", hint="do"), report.Status.FAILED, "no", "do"),
        (errors.StoreError("no"), report.Status.FAILED, "no", "see the agent's log"),
        (OSError(5, "broken", "/x"), report.Status.FAILED, "[Errno 5] broken: '/x'", "see the"),
        # The node has done nothing wrong.
        (KeyError("bug"), report.Status.WARNING, "broke off: KeyError('bug')", "report this"),
    ],
)
async def test_a_check_that_raises(problem, status, detail, hint):
    store, _ = check(problem)
    found = await selfcheck.Selfcheck([store]).look(store)
    assert (found.name, found.status, found.detail) == ("store", status, detail)
    assert found.hint.startswith(hint)


async def test_a_check_that_hangs():
    """It has failed, is not started a second time, and what it says in the end counts."""
    release = threading.Event()

    def hang():
        release.wait(5)
        return OK

    store, ran = check(hang, limit_seconds=0.1, hanging="see the server")
    other, _ = check(report.ok("kernel", "6.18"), name="kernel")
    made = selfcheck.Selfcheck([store, other])
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.gather(made.look(store), made.look(other))
    assert loop.time() - begun < 2
    assert made.problems() == ["store: did not answer for 0 s (see the server)"]
    await made.look(store)
    assert len(ran) == 1
    release.set()
    assert await made.look(store) == OK
    assert (len(ran), made.problems()) == (1, [])
    await made.look(store)
    assert len(ran) == 2


async def test_it_says_for_how_long():
    release = threading.Event()
    store, _ = check(lambda: release.wait(5) and OK, limit_seconds=0.01)
    made = selfcheck.Selfcheck([store])
    await made.look(store)
    begun, future = made._hanging["store"]
    made._hanging["store"] = begun - 50, future
    found = await made.look(store)
    release.set()
    assert found.detail == "did not answer for 50 s"


async def test_nobody_waits_for_what_hangs_at_the_end():
    release = threading.Event()
    store, _ = check(lambda: release.wait(5) and OK, limit_seconds=0.01)
    await selfcheck.Selfcheck([store]).look(store)
    found = [one.daemon for one in threading.enumerate() if one.name == "check-store"]
    release.set()
    assert found
    assert all(found)


async def test_a_check_that_gets_no_thread(monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    store, ran = check(OK)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        found = await selfcheck.Selfcheck([store]).look(store)
    assert (found.status, found.detail) == (
        *(report.Status.FAILED, "no thread for it: can't start new thread"),
    )
    assert not ran


async def until(true):
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


async def test_what_failed_is_looked_at_sooner(monkeypatch):
    monkeypatch.setattr(selfcheck, "AGAIN_SECONDS", 0.01)
    store, ran = check(FAILED, FAILED, FAILED, OK)
    kernel, ran_too = check(report.ok("kernel", "6.18"), name="kernel")
    made = selfcheck.Selfcheck([store, kernel])
    task = asyncio.create_task(made.run())
    await until(lambda: made.outcomes() and made.outcomes()[0] == OK)
    await asyncio.sleep(0.1)
    assert (len(ran), len(ran_too)) == (4, 1)
    task.cancel()


async def test_what_passed_is_looked_at_again():
    store, ran = check(OK, FAILED, every_seconds=0.01)
    made = selfcheck.Selfcheck([store])
    task = asyncio.create_task(made.run())
    await until(lambda: made.outcomes() == [FAILED])
    assert len(ran) == 2
    task.cancel()


async def test_changes_are_logged(caplog):
    warned = report.warning("store", "1 s", "wait")
    other = report.failed("store", "EIO: Input/output error of a1b2/x", "see to it")
    answers = [OK, OK, FAILED, FAILED, other, warned, OK, FAILED]
    store, _ = check(*answers)
    made = selfcheck.Selfcheck([store])
    with caplog.at_level(logging.DEBUG):
        for _ in answers:
            await made.look(store)
    assert [(r.levelname, r.message, r.detail) for r in caplog.records] == [
        ("ERROR", "check failed", FAILED.detail),
        ("ERROR", "check failed", other.detail),
        ("WARNING", "check warns", "1 s"),
        ("INFO", "check passes again", "fine"),
        ("ERROR", "check failed", FAILED.detail),
    ]
    assert (caplog.records[0].check, caplog.records[0].hint) == ("store", FAILED.hint)


async def test_numbers_that_change_are_no_news(caplog):
    def failing(text):
        return report.failed("store", text, "x")

    details = ["mkdir /c/.preflight-n1-0a1b: EROFS", "mkdir /c/.preflight-n1-77fe: EROFS"]
    store, _ = check(*map(failing, [*details, "no answer for 20 s", "no answer for 50 s"]))
    made = selfcheck.Selfcheck([store])
    for _ in range(4):
        await made.look(store)
    assert len(caplog.records) == 2


def settings(tmp_path, **kept):
    return config.AgentConfig(
        apiVersion="chrek.nvidia.com/v1alpha1",
        release="chrek",
        watchNamespaces=["ns"],
        storage=config.Storage(**kept),
        signalHostPath=str(tmp_path / "signals"),
        kubeletRoot=str(tmp_path / "kubelet"),
        stagingPath=str(tmp_path / "staging"),
    )


@pytest.fixture
def of_node():
    """The checks of an agent with these settings."""
    stores = []

    def made(found):
        stores.append(storage.Storage(found.storage, "chrek", transfer_seconds=1))
        return selfcheck.of_node(found, stores[-1], "n1", lambda: "Sat, 28 Nov 2026 12:00:00 GMT")

    yield made
    for store in stores:
        store.close()


OF_ANY = ["signal-path", "staging", "kubelet-root", "kernel", "criu", "cgroups", "privilege"]
OF_ANY += ["clock", "gpu"]


@pytest.mark.parametrize(
    ("kept", "names"),
    [
        ({}, ["store", "store-space"]),
        ({"type": "s3", "s3": config.S3(uri="s3://127.0.0.1:1/bucket")}, ["store", "cache-space"]),
    ],
)
def test_what_is_looked_at(of_node, tmp_path, kept, names):
    found = of_node(settings(tmp_path, **kept))
    assert [one.name for one in found] == names + OF_ANY


def test_each_check_answers_by_its_name_wherever_it_runs(of_node, tmp_path):
    """The machine of this test is no node: what fails must say so, and nothing may break off."""
    pvc = config.Pvc(basePath=str(tmp_path / "checkpoints"))
    for one in of_node(settings(tmp_path, pvc=pvc)):
        found = one.run()
        assert found.name == one.name
        assert found.detail
        assert bool(found.hint) == (found.status is not report.Status.OK)
        if one.name in ("store", "store-space", "signal-path", "kubelet-root", "clock"):
            assert found.status is report.Status.FAILED, found


@pytest.mark.parametrize("seen", [False, True])
def test_the_driver_is_asked_where_there_is_one(tmp_path, monkeypatch, seen):
    asked = []
    monkeypatch.setattr(node, "gpu", lambda *questions: asked.append(questions))
    gpus = types.SimpleNamespace(node=lambda: None, usage=lambda: [])
    store = storage.Storage(config.Storage(), "chrek", transfer_seconds=1)
    try:
        found = selfcheck.of_node(settings(tmp_path), store, "n1", str, gpus=gpus if seen else None)
    finally:
        store.close()
    found[-1].run()
    assert found[-1].name == "gpu"
    assert asked == [(gpus.node, gpus.usage) if seen else (None, None)]


def test_a_store_on_a_server_has_time_for_its_own_words(of_node, tmp_path):
    s3 = config.S3(uri="s3://127.0.0.1:1/bucket")
    store = of_node(settings(tmp_path, type="s3", s3=s3))[0]
    assert store.limit_seconds > 60
    assert store.every_seconds == 600
