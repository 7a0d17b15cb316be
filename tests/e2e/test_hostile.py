"""What a hostile artifact or container tries, and does not get."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from pathlib import Path

import blake3
import msgspec
import pytest

from chrek import manifest
from chrek.criu import images
from chrek.criu import messages_pb2 as pb
from e2e import fault, place, tiny
from showcase import pods


@dataclasses.dataclass
class Forgery:
    """An attacker who can write the store and, in this test, the checkpoint's status as well."""

    here: place.Place
    worker: tiny.Worker

    def forge(self, file: str, data: bytes) -> None:
        """Replace a file of the artifact and make manifest and status agree with it."""
        artifact = self.here.artifact(self.worker.hash)
        (artifact / file).write_bytes(data)
        path = artifact / manifest.NAME
        described = manifest.decode(path.read_bytes())
        spans = range(0, len(data), manifest.CHUNK_BYTES)
        chunks = [blake3.blake3(data[at : at + manifest.CHUNK_BYTES]).hexdigest() for at in spans]
        entry = manifest.File(name=file, size=len(data), chunks=chunks)
        files = [entry if one.name == file else one for one in described.files]
        text = manifest.encode(msgspec.structs.replace(described, files=files))
        path.write_bytes(text)
        name = self.worker.hash
        variants = self.here.checkpoint(name)["status"]["variants"]
        variants[0]["digest"] = manifest.digest(text)
        status = self.here.checkpoint_path(name) + "/status"
        self.here.live.merge(status, {"status": {"variants": variants}})


@pytest.fixture(scope="module")
def victim(here: place.Place) -> tiny.Worker:
    worker = tiny.Worker("tiny/victim")
    here.capture(worker)
    return worker


@pytest.fixture
def forgery(here: place.Place, victim: tiny.Worker) -> Iterator[Forgery]:
    """The artifact may be forged in the test; it is as it was afterwards."""
    artifact = here.artifact(victim.hash)
    kept = {path: path.read_bytes() for path in small_files(artifact)}
    digest = fault.newest(here, victim.hash)["digest"]
    with fault.digest_in_status(here, victim.hash, digest):
        yield Forgery(here, victim)
    for path, data in kept.items():
        path.write_bytes(data)


def small_files(artifact: Path) -> list[Path]:
    return [
        path
        for path in artifact.rglob("*")
        if path.is_file() and not path.name.startswith("pages-")
    ]


def cores(artifact: Path) -> list[Path]:
    found = sorted(artifact.glob("criu/core-*.img"))
    assert found
    return found


def refused(here: place.Place, worker: tiny.Worker, name: str) -> None:
    with here.pod(worker.pod(name), timeout=90) as pod:
        place.assert_cold(here.live, pod, {"PrivilegeMismatch"})
        status = here.exec(pod, "sh", "-c", "cat /proc/[0-9]*/status")
        assert "Uid:\t0\t" not in status
        assert tiny.STARTS in pods.logs(here.live, pod)


def test_credentials_of_root_with_all_capabilities(forgery: Forgery) -> None:
    artifact = forgery.here.artifact(forgery.worker.hash)
    everything = [0xFFFFFFFF, 0x1FF]
    for path in cores(artifact):
        entries = images.read(path, pb.CoreEntry)
        for entry in entries:
            creds = entry.thread_core.creds
            creds.uid = creds.euid = creds.suid = creds.fsuid = 0
            creds.gid = creds.egid = creds.sgid = creds.fsgid = 0
            for name in ("cap_inh", "cap_prm", "cap_eff", "cap_bnd"):
                del getattr(creds, name)[:]
                getattr(creds, name).extend(everything)
        forgery.forge(f"criu/{path.name}", images.encode(path.name, entries))
    refused(forgery.here, forgery.worker, "hostile-root")


def test_capabilities_of_one_thread(forgery: Forgery) -> None:
    path = cores(forgery.here.artifact(forgery.worker.hash))[-1]
    entries = images.read(path, pb.CoreEntry)
    creds = entries[0].thread_core.creds
    del creds.cap_eff[:]
    creds.cap_eff.extend([1 << 21, 0])  # CAP_SYS_ADMIN
    forgery.forge(f"criu/{path.name}", images.encode(path.name, entries))
    refused(forgery.here, forgery.worker, "hostile-capability")


def test_seccomp_filters_taken_away(forgery: Forgery) -> None:
    for path in cores(forgery.here.artifact(forgery.worker.hash)):
        entries = images.read(path, pb.CoreEntry)
        for entry in entries:
            entry.thread_core.ClearField("seccomp_filter")
            entry.thread_core.seccomp_mode = 0
        forgery.forge(f"criu/{path.name}", images.encode(path.name, entries))
    refused(forgery.here, forgery.worker, "hostile-seccomp")


def test_symlinks_in_a_volume_lead_nowhere(here: place.Place) -> None:
    """At capture: links to the agent's secrets. At restore: a link where a folder was."""
    mark = secrets.token_hex(8)
    token = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    worker = tiny.Worker(
        "tiny/links",
        volumes={"/data": "data"},
        links=(
            ("/data/loot", token),
            ("/data/shadow", "/etc/shadow"),
            ("/data/root", "/proc/1/root/etc"),
            ("/data/folder/mark", f"text:{mark}"),
        ),
    )
    here.capture(worker, node="n1")
    # The links are in the archive as links: a target, and no bytes of what they point to.
    data = (here.artifact(worker.hash) / "files.data").read_bytes()
    assert mark.encode() in data
    assert b"root:" not in data
    assert b"eyJhbGciOi" not in data, "no service account token"

    planted = {
        "name": "plant",
        "image": worker.container()["image"],
        "command": ["sh", "-c", "ln -s /checkpoints /data/folder && ln -s /etc /data/up"],
        "securityContext": worker.container()["securityContext"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "resources": worker.container()["resources"],
    }
    with here.pod(worker.pod("planted", node="n2", initContainers=[planted])) as pod:
        assert pods.is_ready(pod)
        assert not (here.volume() / "mark").exists(), "the agent followed a link to its own store"
        target = here.exec(pod, "readlink", "/data/loot")
        if pods.reported(here.live, pod)["status"] == "True":
            assert target.strip() == token


def test_a_symlink_in_the_socket_folder_leads_nowhere(
    here: place.Place, counter: tiny.Worker
) -> None:
    with here.pod(counter.pod("planted-socket", node="n1")) as pod:
        script = (
            "cd /chrek && rm -f agent.sock && ln -s /checkpoints/planted agent.sock; "
            "ln -s /checkpoints/planted ready-for-checkpoint; ls -l /chrek"
        )
        here.exec(pod, "sh", "-c", script)
        here.live.pod_request(pod, 8001, "/exit/0")
        pod = here.wait_restarted(pod, 1, timeout=90)
        assert not (here.volume() / "planted").exists()
        assert pods.state(here.live, pod).nonce
