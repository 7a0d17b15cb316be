"""The steps of a checkpoint that need no container; the whole is in tests/system."""

import os
import subprocess

import pytest

from chrek import checkpoint, errors, procfs


def mount(point, fs_type, *options):
    return procfs.Mount(1, 0, "0:1", "/", point, ("rw",), fs_type, "x", options)


def test_the_upper_directory_of_an_overlay(tmp_path):
    mounts = [
        mount("/", "rootfs"),
        mount("/", "overlay", "lowerdir=/l", f"upperdir={tmp_path}", "workdir=/w"),
        mount("/data", "overlay", "upperdir=/other"),
    ]
    fd = checkpoint._upper_directory(mounts)
    assert os.path.samestat(os.fstat(fd), tmp_path.stat())
    os.close(fd)


@pytest.mark.parametrize(
    ("root", "name"),
    [(mount("/", "btrfs"), "btrfs"), (mount("/", "overlay", "lowerdir=/l"), "overlay")],
)
def test_other_root_file_systems_are_refused(root, name):
    with pytest.raises(errors.UnsupportedError, match=f"is {name}, not overlay"):
        checkpoint._upper_directory([root])


def test_an_upper_directory_that_is_gone_is_an_error_with_a_reason(tmp_path):
    root = mount("/", "overlay", f"upperdir={tmp_path}/gone")
    with pytest.raises(errors.UnsupportedError, match="/gone: No such file"):
        checkpoint._upper_directory([root])


def test_the_hostname_of_a_process():
    for environment, name in (({"A": "1", "HOSTNAME": "pod-1"}, "pod-1"), ({"A": "1"}, "")):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(["sh", "-c", "echo; read _"], env=environment, **pipes) as started:
            assert started.stdout.readline() == b"\n"
            assert checkpoint._hostname(started.pid) == name
            started.stdin.close()
