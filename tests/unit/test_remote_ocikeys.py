"""The store's keys in a registry: made once, whoever wants to make them."""

import asyncio

import pytest

from chrek import errors
from chrek.registry import client, reference
from chrek.remote import ocikeys
from fakes import registry as fake

MANIFESTS = "/v2/acme/store/manifests/"


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """No proxy of this machine, and short waits: as long as only one wants to make keys."""
    fake.direct(monkeypatch)
    monkeypatch.setattr(ocikeys, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(ocikeys, "POLL_SECONDS", 0.01)


@pytest.fixture
def several(monkeypatch):
    """Waits that hold on a busy machine."""
    monkeypatch.setattr(ocikeys, "SETTLE_SECONDS", 1.6)
    monkeypatch.setattr(ocikeys, "LONGEST_SECONDS", 1.5)


@pytest.fixture
def server():
    with fake.Registry() as made:
        yield made


@pytest.fixture
async def connected(server):
    async with client.Client(server.host, plain_http=True, deadline=10.0) as made:
        yield made


@pytest.fixture
def image(server):
    return reference.Reference(server.host, "acme/store")


async def test_there_are_none(connected, image):
    assert await ocikeys.read(connected, image) is None


async def test_they_are_made_and_read(connected, image, server):
    assert await ocikeys.write(connected, image, b"mine", replace=False)
    assert await ocikeys.read(connected, image) == b"mine"
    before = len(server.requests)
    assert await ocikeys.write(connected, image, b"others", replace=False) is False
    assert len(server.requests) == before + 1, "who finds some does not claim to make them"
    assert await ocikeys.read(connected, image) == b"mine"


async def test_they_are_replaced_only_when_that_is_meant(connected, image):
    assert await ocikeys.write(connected, image, b"mine", replace=False)
    assert await ocikeys.write(connected, image, b"mine, wrapped anew", replace=True)
    assert await ocikeys.read(connected, image) == b"mine, wrapped anew"


@pytest.mark.usefixtures("several")
async def test_one_of_many_makes_them(connected, image):
    made = await asyncio.gather(
        *(
            ocikeys.write(connected, image, b"keys of %d" % number, replace=False)
            for number in range(6)
        )
    )
    assert sum(made) == 1
    assert await ocikeys.read(connected, image) == b"keys of %d" % made.index(True)


@pytest.mark.usefixtures("several")
async def test_who_comes_while_the_first_waits(connected, image, server):
    first = asyncio.create_task(ocikeys.write(connected, image, b"first", replace=False))
    while ("acme/store", ocikeys.CLAIM) not in server.manifests:
        await asyncio.sleep(0.01)
    second = asyncio.create_task(ocikeys.write(connected, image, b"second", replace=False))
    assert await asyncio.gather(first, second) == [False, True]
    assert await ocikeys.read(connected, image) == b"second"


async def test_who_claims_late_finds_those_that_were_made(connected, image, server):
    """It looked before there were any, and its claim came when the first had waited."""
    assert await ocikeys.write(connected, image, b"first", replace=False)
    there = server.manifests.pop(("acme/store", ocikeys.TAG))

    def made_meanwhile(handler):
        server.manifests["acme/store", ocikeys.TAG] = there
        return handler._put(f"{MANIFESTS}{ocikeys.CLAIM}", server.requests[-1].body)

    server.script[f"PUT {MANIFESTS}{ocikeys.CLAIM}"] = [made_meanwhile]
    assert await ocikeys.write(connected, image, b"second", replace=False) is False
    assert await ocikeys.read(connected, image) == b"first"


@pytest.mark.parametrize("tag", [ocikeys.TAG, ocikeys.CLAIM])
async def test_a_registry_that_is_too_slow(connected, image, server, tag, monkeypatch):
    """Who looked long ago must not write: others have looked and waited since."""
    monkeypatch.setattr(ocikeys, "LONGEST_SECONDS", 0.3)

    def late(handler):
        fake.time.sleep(0.5)
        return handler._answer(201)

    server.script[f"PUT {MANIFESTS}{tag}"] = [late]
    with pytest.raises(errors.StoreError, match=r"the registry took more than 0\.3 s") as raised:
        await ocikeys.write(connected, image, b"mine", replace=False)
    assert "tried again" in raised.value.hint
    assert ("acme/store", ocikeys.TAG) not in server.manifests


async def test_who_was_to_make_them_has_died(connected, image, server):
    task = asyncio.create_task(ocikeys.write(connected, image, b"mine", replace=False))
    while ("acme/store", ocikeys.CLAIM) not in server.manifests:
        await asyncio.sleep(0.01)
    another = server.image("acme/store", "x", {})
    kind, raw = server.manifests["acme/store", ocikeys.CLAIM]
    raw = raw.replace(raw[raw.index(b"sha256:") :][:71], another["digest"].encode())
    server.manifests["acme/store", ocikeys.CLAIM] = (kind, raw)
    with pytest.raises(errors.StoreError, match="another node was to make the store's keys"):
        await task
    assert await ocikeys.read(connected, image) is None


async def test_something_else_has_their_tag(connected, image, server):
    server.image("acme/store", ocikeys.TAG, {})
    for work in (
        ocikeys.read(connected, image),
        ocikeys.write(connected, image, b"x", replace=False),
    ):
        with pytest.raises(errors.RegistryError, match="it is not chrek's keys"):
            await work


async def test_a_registry_that_is_away_says_nothing_of_the_keys(connected, image, server):
    """A 404 of a proxy must not have new keys made."""
    server.script[MANIFESTS] = [(404, {}, b"<html>default backend</html>")]
    with pytest.raises(errors.RegistryError):
        await ocikeys.write(connected, image, b"x", replace=False)
    assert server.count("PUT") == 0
