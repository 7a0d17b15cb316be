"""A checkpoint that went through a file: gone from the cluster, taken in again, used by pods."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

from chrek import names
from e2e import place, tiny
from showcase import commands


def chrek(here: place.Place, *arguments: object) -> str:
    done = commands.run(
        [sys.executable, "-c", "from chrek.cli import main; main()", *map(str, arguments)],
        environment={"KUBECONFIG": os.fspath(here.live.kubeconfig)},
    )
    return done.stdout


def test_out_of_the_store_into_a_file_and_back(here: place.Place, tmp_path: Path) -> None:
    worker = tiny.Worker("tiny/moved")
    made = here.capture(worker)["status"]["variants"][0]
    file, identity = tmp_path / "moved.tar.zst", tmp_path / "identity.yaml"
    identity.write_text(yaml.safe_dump(worker.identity))
    path, digest, _ = chrek(here, "export", here.volume(), worker.hash, file).split(maxsplit=2)
    assert path == f"{worker.hash}/{made['name']}/{made['uuid']}"
    assert digest == made["digest"]
    here.forget(worker)
    assert not (here.volume() / worker.hash).exists()
    with here.pod(worker.pod("gone")) as pod:
        place.assert_cold(here.live, pod, {"CheckpointNotFound"})
    lines = chrek(
        here, "import", file, here.volume(), "--digest", digest,
        "--checkpoint", f"{here.namespace}/{worker.hash}", "--identity", identity,
    ).splitlines()  # fmt: skip
    label = f"{names.CHECKPOINT_KIND} {worker.hash}"
    assert lines[0].split()[:2] == [path, digest]
    assert lines[1:] == [
        f"{label} created",
        f"{label} has the artifact; the operator makes it Ready",
    ]
    here.wait_phase(worker.hash, "Ready")
    with here.pod(worker.pod("back")) as pod:
        place.assert_warm(here.live, pod)
    here.forget(worker)
