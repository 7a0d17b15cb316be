"""Whether a container's PID 1 could open the files of a capture, asked of the kernel."""

import os
import subprocess
import threading

import pytest

from chrek import errors, procfs, reach
from chrek.criu import messages_pb2 as pb

pytestmark = pytest.mark.system  # only root may become another user
USER, GROUP, TEAM = 64001, 64002, 64003
READ, WRITE, BOTH = os.O_RDONLY, os.O_WRONLY, os.O_RDWR


@pytest.fixture
def start():
    """Starts the process that stands for a container's PID 1."""
    running = []

    def started(*options):
        argv = ["setpriv", *options, "sleep", "60"]
        running.append(subprocess.Popen(argv))
        while procfs.status(running[-1].pid).name != "sleep":
            pass
        return running[-1].pid

    yield started
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def plain(start):
    """A process of a user with one group besides its own, as runAsUser and fsGroup make it."""
    return start(f"--reuid={USER}", f"--regid={GROUP}", f"--groups={TEAM}")


@pytest.fixture
def folder(tmp_path):
    for parent in (tmp_path, *tmp_path.parents[:-1]):
        parent.chmod(parent.stat().st_mode | 0o011)
    return tmp_path


def made(path, mode, owner=0, group=0):
    path.touch()
    os.chown(path, owner, group)
    path.chmod(mode)
    return path


def opened(path, flags):
    file = pb.RegFileEntry(id=1, flags=flags, name=str(path).lstrip("/"))
    return pb.FileEntry(type=1, id=1, reg=file)


@pytest.mark.parametrize(
    ("mode", "owner", "group", "flags", "allowed"),
    [
        (0o600, 0, 0, READ, False),
        (0o644, 0, 0, READ, True),
        (0o644, 0, 0, WRITE, False),
        (0o644, 0, 0, BOTH, False),
        (0o600, USER, 0, BOTH, True),
        (0o400, USER, 0, BOTH, False),
        (0o620, 0, GROUP, WRITE, True),
        (0o660, 0, TEAM, BOTH, True),
        (0o660, 0, TEAM + 1, BOTH, False),
        (0o711, 0, 0, READ, True),  # a program that may be run
        (0o000, 0, 0, os.O_PATH, True),
    ],
)
def test_what_its_user_and_groups_allow(plain, folder, mode, owner, group, flags, allowed):
    entry = opened(made(folder / "file", mode, owner, group), flags)
    if allowed:
        reach.check([entry], plain)
    else:
        with pytest.raises(errors.PrivilegeError, match=f"file open, which user {USER}"):
            reach.check([entry], plain)


def test_a_folder_that_nobody_may_enter(plain, folder):
    inside = folder / "closed"
    inside.mkdir(mode=0o700)
    with pytest.raises(errors.PrivilegeError, match="closed/file"):
        reach.check([opened(made(inside / "file", 0o666), READ)], plain)


def test_a_link_gives_the_rights_of_what_it_leads_to(plain, folder):
    made(folder / "secret", 0o600)
    (folder / "link").symlink_to("secret")
    with pytest.raises(errors.PrivilegeError, match="link open"):
        reach.check([opened(folder / "link", READ)], plain)


def test_what_does_not_exist_is_made_anew(plain, folder):
    reach.check([opened(folder / "deleted", BOTH), pb.FileEntry(type=2, id=2)], plain)


def test_flags_that_would_make_or_empty_a_file(plain, folder):
    for flag in (os.O_CREAT, os.O_TRUNC):
        with pytest.raises(errors.PrivilegeError, match="flags"):
            reach.check([opened(folder / "new", WRITE | flag)], plain)


def test_root_without_capabilities_is_bound_by_modes(start, folder):
    entry = opened(made(folder / "theirs", 0o600, USER, GROUP), READ)
    reach.check([entry], start())
    bound = start("--bounding-set=-all", "--inh-caps=-all")
    with pytest.raises(errors.PrivilegeError, match="user 0"):
        reach.check([entry], bound)


def test_this_process_stays_what_it_is(plain, folder):
    before = procfs.status(os.getpid())
    secret = made(folder / "secret", 0o600)
    reach.check([], plain)
    with pytest.raises(errors.PrivilegeError):
        reach.check([opened(secret, READ)], plain)
    assert procfs.status(os.getpid()) == before
    assert not [t for t in threading.enumerate() if t.name == "reach"]
    assert secret.read_bytes() == b""
