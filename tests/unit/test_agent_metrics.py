"""What the agent counts, and that no label can have more and more values."""

import asyncio

import prometheus_client
import pytest

from chrek import names, retries
from chrek.agent import decision, metrics, slots
from fakes.projected import POD, checkpoint


def sample(name, **labels):
    return prometheus_client.REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def more():
    """How much a counter has grown since it was first asked about here."""
    before = {}

    def grown(name, **labels):
        key = (name, *sorted(labels.items()))
        now = sample(name, **labels)
        return now - before.setdefault(key, now)

    return grown


@pytest.mark.parametrize("ready", [True, False])
def test_cold_starts(more, ready):
    asked = [
        lambda: more("chrek_starts_total", outcome="cold", reason="GpuDiffers"),
        lambda: more("chrek_cold_despite_ready_total", reason="GpuDiffers"),
    ]
    assert [ask() for ask in asked] == [0, 0]
    metrics.went_cold(names.Reason.GPU_DIFFERS, ready=ready, artifact=True)
    assert [ask() for ask in asked] == [1, float(ready)]


@pytest.mark.parametrize(
    ("changed", "ready"),
    [
        ({"phase": "Ready"}, True),
        ({"phase": "Creating"}, False),
        ({"phase": "Ready", "namespace": "elsewhere"}, False),
        ({"phase": "Ready", "deleting": True}, False),
    ],
)
def test_whether_a_warm_start_could_be_expected(changed, ready):
    assert decision.ready([checkpoint(**changed)], POD) is ready


@pytest.mark.parametrize(
    ("reason", "counted"),
    [
        (names.Reason.STORE_UNREACHABLE, 1),
        (names.Reason.ARTIFACT_MISSING, 1),
        (names.Reason.GPU_DIFFERS, 0),
        (names.Reason.CRIU_FAILED, 0),
    ],
)
def test_errors_of_the_store(more, reason, counted):
    for operation in ("open", "restore", "capture"):
        more("chrek_store_errors_total", operation=operation, reason=str(reason))
    metrics.went_cold(reason, ready=True, artifact=True)
    metrics.restore_failed(reason)
    metrics.store_failed("capture", reason)
    for operation in ("open", "restore", "capture"):
        found = more("chrek_store_errors_total", operation=operation, reason=str(reason))
        assert found == counted


def test_an_error_before_there_was_an_artifact_is_none_of_the_store(more):
    labels = {"operation": "open", "reason": "StoreFailed"}
    more("chrek_store_errors_total", **labels)
    metrics.went_cold(names.Reason.STORE_FAILED, ready=True)
    assert more("chrek_store_errors_total", **labels) == 0


def test_a_word_that_is_no_reason_makes_no_new_series(more):
    more("chrek_starts_total", outcome="failed", reason="InternalError")
    metrics.restore_failed("whatever 4711")
    assert more("chrek_starts_total", outcome="failed", reason="InternalError") == 1
    assert not sample("chrek_starts_total", outcome="failed", reason="whatever 4711")


def test_bytes(more):
    for name in ("chrek_restored_bytes_total", "chrek_captured_bytes_total"):
        more(name)
    metrics.restored(7, {"criu": 1.0})
    metrics.captured(9, {"dump": 1.0})
    assert more("chrek_restored_bytes_total") == 7
    assert more("chrek_captured_bytes_total") == 9


def test_retries_by_kind_of_operation(more, monkeypatch):
    monkeypatch.setattr(retries, "_listeners", [])
    retries.listen(metrics.retried)
    wanted = {"HEAD": "get", "LIST": "list", "PATCH": "put", "DELETE": "delete", "BREW": "other"}
    for request, operation in wanted.items():
        more("chrek_store_retries_total", operation=operation)
        retries.count(request)
        assert more("chrek_store_retries_total", operation=operation) == 1


def test_latencies_of_the_api_server_by_verb(more):
    name = "chrek_api_request_seconds_count"
    more(name, verb="list")
    metrics.requested("GET", "/api/v1/pods", 0.02)
    metrics.requested("WATCH", "/api/v1/pods", None)
    assert more(name, verb="list") == 1
    assert sample(name, verb="watch") == 0


async def test_the_queue():
    made, inside, leave = slots.Slots(1), asyncio.Event(), asyncio.Event()

    async def operation(kind):
        async with made.taken(kind):
            inside.set()
            await leave.wait()

    def told():
        names_ = ("chrek_operations_running", "chrek_operations_waiting")
        kinds = ("restore", "capture")
        return [[sample(name, operation=kind) for kind in kinds] for name in names_]

    first = asyncio.create_task(operation("restore"))
    await inside.wait()
    second = asyncio.create_task(operation("capture"))
    await asyncio.sleep(0.01)
    assert told() == [[1, 0], [0, 1]]
    leave.set()
    await asyncio.gather(first, second)
    assert told() == [[0, 0], [0, 0]]


def test_a_scrape_has_no_series_of_when_another_began():
    metrics.requested("GET", "/api/v1/pods", 0.02)
    text = prometheus_client.generate_latest().decode()
    assert "chrek_api_request_seconds_bucket" in text
    assert "_created" not in text
