"""What is asked for is in the node's cache before a pod comes."""

import asyncio
import contextlib
import dataclasses

import msgspec
import pytest

from chrek.agent import objects, prewarm
from fakes import backend as fake_backend
from fakes import node as nodes

FILES = {"criu/pages-1.img": b"page" * 4096}


@dataclasses.dataclass
class Storage:
    """As `chrek.storage` with a server."""

    node: nodes.Node
    has_cache: bool = True

    def of(self, namespace):
        return self.node.store("" if namespace == "ns" else namespace)


@pytest.fixture
def backend():
    return fake_backend.Memory()


@pytest.fixture
def source(backend, tmp_path):
    with nodes.Node(backend, tmp_path / "source") as made:
        yield made


@pytest.fixture
def node(backend, tmp_path):
    with nodes.Node(backend, tmp_path / "node") as made:
        yield made


def checkpoint(source, name, *, at="2026-01-01T00:00:00Z", **changed):
    uuid, digest = nodes.make(source.store(), FILES)
    variant = objects.Variant(nodes.VARIANT, uuid, digest, created_at=at)
    fields = {"phase": "Ready", "identity_hash": nodes.HASH, "prewarm": True, **changed}
    return objects.Checkpoint(name=name, namespace="ns", variants=(variant,), **fields)


async def wait(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(made):
    task = asyncio.create_task(made.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def there(node):
    return {one.key.uuid for one in node.cache.kept()}


async def test_what_asks_for_it_is_fetched(source, node, monkeypatch):
    monkeypatch.setattr(prewarm, "POLL_SECONDS", 0.01)
    wanted = checkpoint(source, "a")
    others = [
        checkpoint(source, "b", prewarm=False),
        checkpoint(source, "c", deleting=True),
        msgspec.structs.replace(
            (suspect := checkpoint(source, "d")),
            variants=(msgspec.structs.replace(suspect.variants[0], suspect=True),),
        ),
    ]
    known = [wanted, *others]
    async with running(prewarm.Prewarm(Storage(node), lambda: known)):
        await wait(lambda: there(node) == {wanted.variants[0].uuid})
        later = checkpoint(source, "e")
        known.append(later)
        await wait(lambda: len(there(node)) == 2)
    assert there(node) == {wanted.variants[0].uuid, later.variants[0].uuid}


async def test_the_newest_first(source, node, backend, monkeypatch):
    monkeypatch.setattr(prewarm, "POLL_SECONDS", 0.01)
    known = [
        checkpoint(source, str(year), at=f"{year}-01-01T00:00:00Z") for year in (2024, 2026, 2025)
    ]
    order = []
    monkeypatch.setattr(prewarm.Prewarm, "_fetch_now", lambda _, one, __: order.append(one.name))
    async with running(prewarm.Prewarm(Storage(node), lambda: known)):
        await wait(lambda: len(order) == 3)
    assert order == ["2026", "2025", "2024"]


async def test_what_fails_is_tried_again_later(source, node, backend, monkeypatch):
    monkeypatch.setattr(prewarm, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(prewarm, "RETRY_SECONDS", 0.2)
    first, second = checkpoint(source, "a"), checkpoint(source, "b", at="2025-01-01T00:00:00Z")
    backend.fails_at = 0
    backend.calls.clear()
    async with running(prewarm.Prewarm(Storage(node), lambda: [first, second])):
        await wait(lambda: len(backend.calls) >= 2)
        assert there(node) == set()
        backend.fails_at = None
        await wait(lambda: len(there(node)) == 2)


async def test_with_a_volume_there_is_nothing_to_do(node):
    async with asyncio.timeout(1):
        await prewarm.Prewarm(Storage(node, has_cache=False), list).run()
