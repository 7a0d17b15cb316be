"""Requests that are made until the API server has answered."""

import time

import pytest

from chrek import errors
from chrek.kube import persistence


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(persistence, "FIRST_PAUSE_SECONDS", 0.01)


def failing(*statuses):
    calls = []

    async def call():
        calls.append(time.monotonic())
        if len(calls) <= len(statuses):
            raise errors.ApiError("no", status=statuses[len(calls) - 1])
        return {"kind": "Pod"}

    return call, calls


async def test_until_it_answers():
    call, calls = failing(0, 429, 503)
    assert await persistence.persist(call, 60) == {"kind": "Pod"}
    assert len(calls) == 4


async def test_a_server_that_has_just_started_refuses_what_it_takes_later():
    call, calls = failing(0, 403, 401, 403)
    assert await persistence.persist(call, 60) == {"kind": "Pod"}
    assert len(calls) == 5


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_that_stays_is_an_answer(status, monkeypatch):
    monkeypatch.setattr(persistence, "STARTING_SECONDS", 0.1)
    call, calls = failing(*[status] * 99)
    with pytest.raises(errors.ApiError) as caught:
        await persistence.persist(call, 60)
    assert caught.value.status == status
    assert 3 <= len(calls) <= 6, "after 0, 10, 30, 70 and 150 ms"


@pytest.mark.parametrize("status", [400, 404, 409, 422])
async def test_a_refusal_is_an_answer(status):
    call, calls = failing(status)
    with pytest.raises(errors.ApiError) as caught:
        await persistence.persist(call, 60)
    assert caught.value.status == status
    assert len(calls) == 1


async def test_patience_ends():
    call, calls = failing(*[0] * 99)
    with pytest.raises(errors.ApiError):
        await persistence.persist(call, 0.1)
    assert len(calls) <= 4, "after 0, 10, 30 and 70 ms; the next would be too late"
