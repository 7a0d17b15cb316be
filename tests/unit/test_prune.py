"""Deletions and readers give way to each other, over a real connection and a real directory."""

import asyncio
import datetime
import os
import pathlib
import signal
import sys

import msgspec
import pytest
import yaml

from chrek import config, errors, names, prune
from chrek import store as stores
from chrek.kube import api
from fakes import api_server

HASH, OTHER = "0123456789abcdef", "fedcba9876543210"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
LEASE = f"{LEASES}/ns-chrek.ns.{HASH}"
MARK = f"{prune.READING}12345678"
HOLDER = "deletion/delete-1-x"


@pytest.fixture
def server():
    with api_server.ApiServer() as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(prune, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(prune, "RENEW_SECONDS", 0.05)


class Scene:
    """A store with artifacts, and deletions that see it."""

    def __init__(self, server, base):
        self.server, self.base = server, base
        self.lines = []
        self.settings = msgspec.convert(
            {
                "apiVersion": "chrek.nvidia.com/v1alpha1",
                "kind": "AgentConfig",
                "release": "ns-chrek",
                "watchNamespaces": ["ns", "team"],
                "storage": {"pvc": {"basePath": str(base)}},
            },
            config.AgentConfig,
        )
        self.stop = asyncio.Event()
        self.client = api.Client(api.Credentials(server=server.url, tls=None))

    def artifact(self, namespace="", identity_hash=HASH, variant="aaaa"):
        stage = stores.Store(self.base, namespace).stage(identity_hash, variant)
        (stage.path / "manifest.json").write_text("{}")
        return stage

    def prune(self, holder=HOLDER):
        return prune.Prune(
            self.client,
            self.settings,
            own="ns",
            holder=holder,
            stop=self.stop,
            report=self.lines.append,
        )

    async def delete(self, *paths, namespace="ns", timeout=5.0, holder=HOLDER):
        wanted = [stores.parse_path(path) for path in paths or (HASH,)]
        await self.prune(holder).delete(namespace, wanted, timeout=timeout)

    def lease(self, *, marks=None, **spec):
        self.server.add(
            LEASES,
            {"spec": spec},
            name=f"ns-chrek.ns.{HASH}",
            annotations=marks or {},
            resourceVersion="1",
        )

    @property
    def holder(self):
        return self.server.objects.get(LEASE, {}).get("spec", {}).get("holderIdentity")

    async def held(self, holder=HOLDER):
        async with asyncio.timeout(5):
            while self.holder != holder:
                await asyncio.sleep(0.01)


@pytest.fixture
async def scene(server, tmp_path):
    made = Scene(server, tmp_path / "checkpoints")
    made.base.mkdir()
    async with made.client:
        yield made


def ends(seconds):
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return end.strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_an_identity_without_readers_goes_at_once(scene):
    stage = scene.artifact()
    await scene.delete()
    assert scene.lines == [f"deleted {HASH}/aaaa/{stage.uuid} 2 bytes"]
    assert list(scene.base.iterdir()) == []
    # Held before anything went, and gone with what it was for.
    writes = [(method, path) for method, path, _, _ in scene.server.requests if method != "GET"]
    assert writes == [("POST", LEASES), ("DELETE", LEASE)]
    held = next(body for method, _, _, body in scene.server.requests if method == "POST")
    assert held["spec"]["holderIdentity"] == HOLDER
    assert held["spec"]["leaseDurationSeconds"] == prune.LEASE_SECONDS
    assert datetime.datetime.fromisoformat(held["spec"]["renewTime"]).tzinfo is not None


async def test_other_namespaces_have_leases_and_places_of_their_own(scene):
    own, team = scene.artifact(), scene.artifact("team")
    await scene.delete(namespace="team")
    assert own.path.exists()
    assert not team.path.exists()
    assert ("DELETE", f"{LEASES}/ns-chrek.team.{HASH}") in [r[:2] for r in scene.server.requests]


async def test_the_lease_stays_for_the_variants_that_stay(scene):
    scene.lease(marks={MARK: ends(-1)})
    gone, kept = scene.artifact(variant="aaaa"), scene.artifact(variant="bbbb")
    await scene.delete(f"{HASH}/aaaa/{gone.uuid}")
    assert kept.path.exists()
    assert not gone.path.exists()
    lease = scene.server.objects[LEASE]
    assert lease["spec"] == {}
    # Only readers write readers' marks.
    assert list(lease["metadata"]["annotations"]) == [MARK]


async def test_it_waits_for_a_reader(scene):
    scene.lease(marks={MARK: ends(60), "unrelated": "x"})
    stage = scene.artifact()
    task = asyncio.create_task(scene.delete())
    await scene.held()
    await asyncio.sleep(0.2)
    assert stage.path.exists()
    renewed = [r for r in scene.server.requests if r[0] == "PATCH"]
    assert len(renewed) > 2
    # The reader has finished.
    del scene.server.objects[LEASE]["metadata"]["annotations"][MARK]
    await task
    assert not stage.path.exists()


@pytest.mark.parametrize("valid", [True, False], ids=["a time", "nonsense"])
async def test_a_reader_that_stays_ends_the_wait(scene, valid):
    scene.lease(marks={MARK: ends(60) if valid else "nonsense"})
    stage = scene.artifact()
    with pytest.raises(errors.ChrekError, match="nothing was deleted: pods on 1 nodes") as caught:
        await scene.delete(timeout=0.1)
    assert caught.value.reason == names.Reason.DELETION_FAILED
    assert (stage.path / "manifest.json").exists()
    assert scene.holder is None


@pytest.mark.parametrize("seconds", [-1, 86400, None])
async def test_a_mark_is_valid_as_long_as_a_restore_may_take_and_no_longer(scene, seconds):
    """Whatever a node's clock says: two hundredths of a second here."""
    scene.settings = msgspec.structs.replace(scene.settings, restoreTimeoutSeconds=-59.98)
    scene.lease(marks={MARK: "nonsense" if seconds is None else ends(seconds)})
    await scene.delete()
    assert LEASE not in scene.server.objects


async def test_another_deletion_goes_first(scene):
    scene.lease(holderIdentity="deletion/other", renewTime=ends(0), leaseDurationSeconds=30)
    stage = scene.artifact()
    with pytest.raises(errors.ChrekError, match="deletion/other deletes it already"):
        await scene.delete(timeout=0.1)
    assert stage.path.exists()
    assert scene.holder == "deletion/other"


async def test_a_deletion_that_died_is_taken_over(scene):
    """Not by its time, which another clock wrote, but because nobody renews it."""
    scene.lease(holderIdentity="deletion/other", renewTime=ends(900), leaseDurationSeconds=0.1)
    stage = scene.artifact()
    await scene.delete()
    assert not stage.path.exists()


async def test_a_lease_that_is_taken_away_stops_it(scene):
    scene.lease(marks={MARK: ends(60)})
    stage = scene.artifact()
    task = asyncio.create_task(scene.delete())
    await scene.held()
    scene.lease(holderIdentity="deletion/other", renewTime=ends(0), leaseDurationSeconds=30)
    with pytest.raises(errors.ApiError, match="is held by 'deletion/other' now"):
        await task
    assert stage.path.exists()
    assert scene.holder == "deletion/other"


async def test_two_deletions_one_after_the_other(scene):
    for variant in ("aaaa", "bbbb", "cccc"):
        scene.artifact(variant=variant)
    await asyncio.gather(
        scene.delete(f"{HASH}/aaaa", holder="deletion/a"),
        scene.delete(f"{HASH}/bbbb", holder="deletion/b"),
        scene.delete(HASH, holder="deletion/c"),
    )
    assert list(scene.base.iterdir()) == []
    assert scene.server.objects == {}


async def test_without_an_api_server_nothing_is_deleted(scene):
    stage = scene.artifact()
    scene.server.refuse("GET", LEASE, status=403, message="no")
    with pytest.raises(errors.ApiError, match="403"):
        await scene.delete()
    assert stage.path.exists()


async def test_it_stops_deleting_when_it_cannot_renew(scene, monkeypatch):
    for _ in range(3):
        scene.artifact()
    monkeypatch.setattr(prune, "HELD_SECONDS", 0.0)
    with pytest.raises(errors.ApiError, match="could not be renewed"):
        await scene.delete()
    assert scene.lines == []


async def test_a_volume_that_fails_gives_the_lease_back(scene):
    first = scene.artifact(variant="aaaa")
    (scene.base / OTHER).symlink_to(scene.base / HASH)
    with pytest.raises(errors.StoreError):
        await scene.delete(HASH, OTHER)
    assert scene.lines == [f"deleted {HASH}/aaaa/{first.uuid} 2 bytes"]
    assert {path: o["spec"] for path, o in scene.server.objects.items() if o["spec"]} == {}


async def test_to_stop_gives_the_lease_back(scene):
    scene.lease(marks={MARK: ends(60)})
    stage = scene.artifact()
    task = asyncio.create_task(scene.delete())
    await scene.held()
    scene.stop.set()
    with pytest.raises(errors.ChrekError, match="stopped before everything was deleted"):
        await task
    assert stage.path.exists()
    assert scene.holder is None


@pytest.mark.parametrize(
    ("text", "path"),
    [(HASH, (HASH, "", "")), (f"{HASH}/a", (HASH, "a", "")), (f"{HASH}/a/b", (HASH, "a", "b"))],
)
def test_paths(text, path):
    assert stores.parse_path(text) == path


@pytest.mark.parametrize("text", ["", "/", "a/", "/a", "a//b", "a/b/c/d"])
def test_paths_that_are_none(text):
    with pytest.raises(errors.InputError, match="is not a path in the store"):
        stores.parse_path(text)


async def test_the_program(scene, tmp_path):
    """As the Job runs it: a signal ends the wait, a second run finishes."""
    stage = scene.artifact()
    scene.lease(marks={MARK: ends(60)})
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(scene.settings)))
    kubeconfig = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": scene.server.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    environment = {
        **os.environ,
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "POD_NAMESPACE": "ns",
        "POD_NAME": "delete-1-x",
        "PYTHONPATH": str(pathlib.Path(prune.__file__).parents[1]),
    }

    async def start():
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from chrek.cli import main; main()", "prune"),
            *(f"--config={tmp_path / 'agent.yaml'}", "--namespace=ns", HASH),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    process = await start()
    await scene.held()
    process.send_signal(signal.SIGTERM)
    out, err = await process.communicate()
    assert process.returncode == errors.ChrekError.exit_code
    assert out == b""
    assert b"error: stopped before everything was deleted\n  hint: run it again\n" in err
    assert stage.path.exists()
    assert scene.holder is None

    scene.lease()
    process = await start()
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.decode() == f"deleted {HASH}/aaaa/{stage.uuid} 2 bytes\n"
    assert not stage.path.exists()
