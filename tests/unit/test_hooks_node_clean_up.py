import pathlib
import subprocess
import sys
import time

import pytest

from chrek import errors
from chrek.hooks import node_clean_up

SIGNALS = "/var/lib/chrek/signals/team-chrek"
CACHE = "/var/lib/chrek/cache/team-chrek"


@pytest.fixture
def node(tmp_path):
    """A node's directories below a root: of this release, and of another one."""
    for name in (SIGNALS, CACHE, "/var/lib/chrek/signals/team-chrek2", "/etc"):
        directory = tmp_path / "node" / name[1:]
        (directory / "deep" / "er").mkdir(parents=True)
        (directory / "deep" / "er" / "pages-1.img").write_bytes(b"secret")
        (directory / "deep").chmod(0o700)
    return tmp_path / "node"


def at(root, path):
    return root / path.lstrip("/")


def run(monkeypatch, root, *paths, until=None):
    """The program's exit code and what it left for the hook."""
    log = root.parent / "termination-log"
    monkeypatch.setattr(node_clean_up, "TERMINATION_LOG", log)
    late = time.time() + 60 if until is None else until
    arguments = [f"--root={root}", *paths, f"--until={late:.0f}"]
    with pytest.raises(SystemExit) as ended:
        node_clean_up.main(arguments)
    return ended.value.code, log.read_text()


def test_the_directories_of_the_release_go_and_nothing_else(monkeypatch, node):
    code, line = run(monkeypatch, node, SIGNALS, CACHE)
    assert (code, line) == (0, f"removed {SIGNALS}, {CACHE}")
    left = sorted(str(path.relative_to(node)) for path in node.rglob("*.img"))
    assert left == [
        "etc/deep/er/pages-1.img",
        "var/lib/chrek/signals/team-chrek2/deep/er/pages-1.img",
    ]
    assert not at(node, SIGNALS).exists()
    assert at(node, SIGNALS).parent.is_dir()


def test_again_there_is_nothing(monkeypatch, node):
    run(monkeypatch, node, SIGNALS)
    assert run(monkeypatch, node, SIGNALS) == (0, "nothing was there")


def test_an_order_that_expired_is_not_followed(monkeypatch, node):
    """A pod of the DaemonSet starts anew with its node, when the release may be back."""
    code, line = run(monkeypatch, node, SIGNALS, until=time.time() - 5)
    assert code == errors.ChrekError.exit_code
    assert line.startswith("nothing was removed: the order had expired ")
    assert at(node, SIGNALS).is_dir()


def test_links_inside_are_removed_and_not_followed(monkeypatch, node):
    (at(node, CACHE) / "out").symlink_to(at(node, "/etc"))
    (at(node, CACHE) / "deep" / "gone").symlink_to("/none-such")
    assert run(monkeypatch, node, CACHE) == (0, f"removed {CACHE}")
    assert (at(node, "/etc") / "deep").is_dir()


def test_a_link_in_its_place_stays_and_the_others_go(monkeypatch, node):
    at(node, CACHE).rename(at(node, "/elsewhere"))
    at(node, CACHE).symlink_to(at(node, "/elsewhere"))
    code, line = run(monkeypatch, node, CACHE, SIGNALS)
    assert code == errors.ChrekError.exit_code
    assert line == f"removed {SIGNALS}; {CACHE} stays: it is a symbolic link, which is not followed"
    assert (at(node, "/elsewhere") / "deep").is_dir()


def test_a_file_in_its_place_stays(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(errors.ChrekError, match="no directory"):
        node_clean_up.remove(tmp_path / "a", [])


def test_what_is_mounted_inside_stays(node):
    inside = at(node, CACHE) / "deep"
    with pytest.raises(errors.ChrekError, match=r"something is mounted in it, at deep$"):
        node_clean_up.remove(at(node, CACHE), [pathlib.Path("/"), inside])
    assert (inside / "er" / "pages-1.img").exists()


def test_mounts_elsewhere_do_not_matter(node):
    mounts = [pathlib.Path("/"), at(node, SIGNALS), at(node, CACHE).parent]
    assert node_clean_up.remove(at(node, CACHE), mounts)


def test_it_does_not_import_what_takes_seconds():
    """It starts on every node, and needs no cluster."""
    script = (
        "import sys; from chrek.hooks import node_clean_up;sys.exit('kubernetes' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
