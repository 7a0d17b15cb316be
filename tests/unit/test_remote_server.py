"""Threads without an event loop talk to a server, which keeps its connections."""

import asyncio
import threading

import pytest

from chrek import errors
from chrek.remote import seal, server
from fakes import backend as fake_backend


@pytest.fixture
def made():
    return []


@pytest.fixture
def talking(made):
    def make():
        made.append(fake_backend.Memory())
        return made[-1]

    async def unlock(one):
        assert one is made[-1]
        return seal.Plain()

    found = server.Server(make, unlock)
    yield found
    found.close()


def test_all_callers_share_one_backend_and_one_loop(talking, made):
    found = []

    async def ask(one, sealer):
        await asyncio.sleep(0.01)
        found.append((one, sealer, threading.current_thread(), asyncio.get_running_loop()))

    threads = [
        threading.Thread(target=lambda: talking.run(ask, timeout_seconds=5)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert found[0][0] is made[0]
    assert found[0][2] is not threading.current_thread()
    talking.close()
    assert made[0].calls == ["close"]


def test_what_takes_too_long_is_ended(talking):
    ended = []

    async def hang(_one, _sealer):
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(errors.StoreError, match=r"did not finish in 0\.05 s"):
        talking.run(hang, timeout_seconds=0.05)
    assert ended == [True]


def test_errors_reach_the_caller(talking):
    async def fail(one, _sealer):
        one.fails_at = 0
        await one.check()

    with pytest.raises(errors.StoreError, match="the server is gone"):
        talking.run(fail, timeout_seconds=5)


def test_a_backend_that_cannot_be_made_is_tried_again():
    tries = []

    def make():
        tries.append(True)
        if len(tries) == 1:
            raise errors.ConfigError("no such Secret")
        return fake_backend.Memory()

    async def unlock(_):
        return seal.Plain()

    found = server.Server(make, unlock)
    try:
        with pytest.raises(errors.ConfigError):
            found.run(lambda one, _: one.check(), timeout_seconds=5)
        found.run(lambda one, _: one.check(), timeout_seconds=5)
    finally:
        found.close()


def test_who_was_never_asked_closes():
    async def unlock(_):
        return seal.Plain()

    server.Server(fake_backend.Memory, unlock).close()


def test_what_is_left_is_ended(talking):
    ended, begun = [], threading.Event()

    async def hang(_one, _sealer):
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    def ask():
        with pytest.raises(errors.StoreError):
            talking.run(hang, timeout_seconds=60)

    thread = threading.Thread(target=ask)
    thread.start()
    begun.wait()
    talking.close()
    thread.join()
    assert ended == [True]
