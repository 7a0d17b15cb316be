from __future__ import annotations

import pathlib
import types

import msgspec
import pytest

from chrek import compatibility, errors, facts, gpustate, manifest, names
from chrek import store as stores
from chrek.cuda import gpus as devices
from chrek.standalone import choice, records

RUN = records.Run(
    name="web",
    command=["server"],
    cwd="/",
    environment={"MODEL": "a"},
    volumes=[],
    store="",
)


@pytest.fixture
def run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> records.Run:
    monkeypatch.setattr(records, "check_store", lambda _: None)
    return msgspec.structs.replace(RUN, store=str(tmp_path / "store"))


def put(run: records.Run, created: str = "2026-01-01T00:00:00Z") -> str:
    store = stores.Store(pathlib.Path(run.store))
    stage = store.stage(run.identity, run.variant)
    known = choice.declared(run)
    source = manifest.Source(
        architecture="",
        kernel="",
        hostname="",
        addresses=[],
        command=known.command,
        environment=known.environment,
    )
    described = manifest.Manifest(
        version=manifest.VERSION,
        uuid=stage.uuid,
        identityHash=run.identity,
        variant=run.variant,
        createdAt=created,
        chrekVersion="0",
        rootPid=2,
        stdio=["", "", ""],
        volumes=[],
        source=source,
        files=[],
        steps={},
    )
    store.commit(stage, described)
    return stage.uuid


def reason(run: records.Run) -> str:
    with pytest.raises(errors.ArtifactError) as caught:
        choice.newest(run)
    return caught.value.reason


def test_without_a_checkpoint(run: records.Run) -> None:
    assert reason(run) == names.Reason.CHECKPOINT_NOT_FOUND
    pathlib.Path(run.store).mkdir()
    assert reason(run) == names.Reason.CHECKPOINT_NOT_FOUND
    put(msgspec.structs.replace(run, name="other"))
    assert reason(run) == names.Reason.CHECKPOINT_NOT_FOUND
    put(msgspec.structs.replace(run, command=["server", "-v"]))
    assert reason(run) == names.Reason.NO_VARIANT


def test_the_newest(run: records.Run) -> None:
    put(run, "2026-01-03T00:00:00Z")
    put(run, "2026-01-02T00:00:00Z")
    last = put(run, "2026-01-03T00:00:00Z")
    assert choice.newest(run).manifest.uuid == last


def test_a_damaged_manifest(run: records.Run) -> None:
    put(run)
    (path,) = pathlib.Path(run.store).rglob(manifest.NAME)
    path.write_text("{")
    assert reason(run) == names.Reason.ARTIFACT_CORRUPT


def test_what_differs_is_told_with_what_to_do(
    run: records.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(run)
    artifact = choice.newest(run)
    monkeypatch.setattr(facts, "present", lambda _pid, _origin, declared, *_, **__: declared)
    monkeypatch.setattr(gpustate, "plan", lambda *_: None)
    choice.compare(artifact, run, 1, None)
    other = msgspec.structs.replace(run, environment={"MODEL": "b"})
    with pytest.raises(errors.CompatibilityError, match="MODEL") as caught:
        choice.compare(artifact, other, 1, None)
    assert caught.value.reason == names.Reason.ENVIRONMENT_DIFFERS
    assert caught.value.hint == "to have it start warm again: chrek dump web"


def test_a_mount_that_the_program_did_not_use_may_go() -> None:
    def mounted(path: str, *, read_only: bool = True) -> compatibility.Mount:
        return compatibility.Mount(path=path, kind="disk", readOnly=read_only)

    captured = compatibility.Facts(
        mounts=[
            mounted("/", read_only=False),
            mounted("/home"),
            mounted("/media/stick"),
            mounted("/models"),
            compatibility.Mount(path="/run/shared", kind="memory", readOnly=True),
            mounted("/scratch", read_only=False),
        ],
        volumeFiles=[compatibility.File(path="/models/weights", size=1)],
    )
    run = msgspec.structs.replace(RUN, cwd="/home/me")
    kept = choice._needed(captured, run).mounts or []
    assert [mount.path for mount in kept] == ["/", "/home", "/models", "/run/shared", "/scratch"]
    assert choice._needed(compatibility.Facts(), run).mounts == []


def test_a_container_that_is_gone(run: records.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    put(run)

    def gone(*_: object, **__: object) -> compatibility.Facts:
        raise FileNotFoundError(2, "gone")

    monkeypatch.setattr(facts, "present", gone)
    with pytest.raises(errors.PeerError):
        choice.compare(choice.newest(run), run, 1, None)


def test_gpus_of_a_machine() -> None:
    without = types.SimpleNamespace(available=lambda: False)
    assert choice.gpus(without) is None  # type: ignore[arg-type]
    found = choice.gpus(types.SimpleNamespace(available=lambda: True))  # type: ignore[arg-type]
    assert isinstance(found, devices.Gpus)
