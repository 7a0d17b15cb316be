"""An artifact on its way to a node: small files first, then memory, or nothing at all."""

import asyncio
import threading

import pytest

from chrek import errors, names
from chrek.remote import download, seal
from fakes import backend as fake_backend
from fakes import node as nodes

HASH, VARIANT = nodes.HASH, nodes.VARIANT
FILES, fetch = nodes.FILES, nodes.fetch


@pytest.fixture
def backend():
    return fake_backend.Memory()


@pytest.fixture
def first(backend, tmp_path):
    with nodes.Node(backend, tmp_path / "n1") as made:
        yield made


@pytest.fixture
def second(backend, tmp_path):
    with nodes.Node(backend, tmp_path / "n2") as made:
        yield made


class Gate:
    """Holds back what a server sends of a pack where page files are."""

    def __init__(self, backend, monkeypatch):
        self.open = threading.Event()
        self.held = 0
        page, real = FILES["criu/pages-1.img"][:4096], backend.read_pack

        async def read_pack(*arguments):
            data = await real(*arguments)
            if page in data:
                self.held += 1
                while not self.open.is_set():
                    await asyncio.sleep(0.01)
            return data

        monkeypatch.setattr(backend, "read_pack", read_pack)


@pytest.fixture
def gate(backend, monkeypatch):
    monkeypatch.setattr(download, "GAP_BYTES", 0)
    return Gate(backend, monkeypatch)


def arriving(node, uuid, digest):
    store = node.store()
    artifact = store.open(HASH, VARIANT, uuid, digest)
    return artifact, store.arriving(artifact)


def test_small_files_are_there_before_page_files(backend, first, second, gate):
    uuid, digest = nodes.make(first.store(), FILES)
    artifact, coming = arriving(second, uuid, digest)
    with coming as rest:
        assert gate.held == 1
        for name, data in FILES.items():
            found = (artifact.path / name).read_bytes()
            assert len(found) == len(data), "CRIU finds files of the right sizes"
            assert (found == data) != name.startswith("criu/pages-")
        gate.open.set()
        rest()
        rest()
        assert nodes.contents(artifact.path) == FILES
    backend.calls.clear()
    again, coming = arriving(second, uuid, digest)
    with coming as rest:
        assert rest is None
        assert nodes.contents(again.path) == FILES
    assert not backend.calls


def test_who_leaves_before_leaves_nothing_half(first, second, gate):
    uuid, digest = nodes.make(first.store(), FILES)
    artifact, coming = arriving(second, uuid, digest)
    with coming:
        pass
    assert not artifact.path.exists()
    assert not second.transfers
    gate.open.set()
    assert fetch(second, uuid, digest) == FILES


def test_page_files_that_do_not_arrive(first, second, gate, monkeypatch):
    uuid, digest = nodes.make(first.store(), FILES)
    artifact, coming = arriving(second, uuid, digest)
    with coming as rest:
        monkeypatch.setattr(seal.Plain, "chunk_id", lambda *_: bytes(32))
        gate.open.set()
        with pytest.raises(errors.ArtifactError, match="not those that were captured"):
            rest()
    assert not artifact.path.exists()
    monkeypatch.undo()
    assert fetch(second, uuid, digest) == FILES


def test_another_waits_until_all_is_there(first, second, gate):
    uuid, digest = nodes.make(first.store(), FILES)
    _, coming = arriving(second, uuid, digest)
    found = []
    with coming as rest:
        other = threading.Thread(target=lambda: found.append(fetch(second, uuid, digest)))
        other.start()
        other.join(0.1)
        assert not found
        gate.open.set()
        rest()
        other.join(10)
        assert found == [FILES], "and not for the restore of the first"


def test_what_is_begun_again_goes_into_the_same_files(first, second, gate, monkeypatch):
    """As after the store got other keys: CRIU may have the files already."""
    uuid, digest = nodes.make(first.store(), FILES)
    artifact, coming = arriving(second, uuid, digest)
    real, calls = download.download, []

    async def twice(*arguments, **named):
        calls.append(arguments)
        done = await real(*arguments, **named)
        if len(calls) == 1:
            raise errors.ArtifactError("other keys", reason=names.Reason.ARTIFACT_UNREADABLE)
        return done

    monkeypatch.setattr(download, "download", twice)
    with coming as rest:
        pages = (artifact.path / "criu/pages-1.img").open("rb")
        gate.open.set()
        rest()
        with pages:
            assert pages.read() == FILES["criu/pages-1.img"]
    assert len(calls) == 2
