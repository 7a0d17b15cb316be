"""What removes a release's directories from a node, as in a container: mounts, and no rights."""

import os
import subprocess
import sys
import time

import pytest

from chrek import errors

pytestmark = pytest.mark.system
PATH = "/var/lib/chrek/cache/team-chrek"


@pytest.fixture
def target(tmp_path):
    found = tmp_path / "node" / PATH[1:]
    (found / "deep").mkdir(parents=True)
    (found / "deep" / "pages-1.img").write_bytes(b"secret")
    return found


def run(tmp_path, *, mount=""):
    """Run it as root without capabilities, with a file system of its own mounted at `mount`.

    Returns: its exit code, and what it left for the hook.
    """
    log = tmp_path / "termination-log"
    program = [
        sys.executable, "-m", "chrek.hooks.node_clean_up", f"--root={tmp_path / 'node'}",
        f"--until={time.time() + 60:.0f}", PATH,
    ]  # fmt: skip
    mounted = f"mount -t tmpfs none {mount} && touch {mount}/inside && " if mount else ""
    script = f'{mounted}exec setpriv --inh-caps=-all --bounding-set=-all "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *program],
        env={**os.environ, "CHREK_TERMINATION_LOG": str(log)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert log.exists(), done.stdout + done.stderr
    assert done.stdout == f"{log.read_text()}\n"
    return done.returncode, log.read_text()


def test_root_needs_no_capabilities_for_what_is_its_own(tmp_path, target):
    (target / "deep").chmod(0o700)
    assert run(tmp_path) == (0, f"removed {PATH}")
    assert not target.exists()


def test_what_is_another_users_is_told(tmp_path, target):
    os.chown(target / "deep", 65532, 65532)
    (target / "deep").chmod(0o700)
    code, line = run(tmp_path)
    assert code == errors.ChrekError.exit_code
    assert line == f"{PATH} stays: deep: Permission denied"
    assert (target / "deep" / "pages-1.img").exists()


def test_what_is_mounted_inside_stays(tmp_path, target):
    code, line = run(tmp_path, mount=target / "deep")
    assert code == errors.ChrekError.exit_code
    assert line == f"{PATH} stays: something is mounted in it, at deep"
    assert (target / "deep" / "pages-1.img").exists()


def test_a_disk_of_its_own_is_emptied(tmp_path, target):
    """Its mount point cannot go."""
    assert run(tmp_path, mount=target) == (0, f"removed {PATH}")
    assert target.is_dir()
