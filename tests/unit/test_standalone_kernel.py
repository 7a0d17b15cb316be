from __future__ import annotations

import os
import pathlib

import pytest

from chrek.standalone import kernel


def test_a_refusal_names_what_was_to_be_done(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match="mount of nonsense at") as caught:
        kernel.mount("none", tmp_path, "nonsense")
    assert caught.value.errno
    with pytest.raises(OSError, match=f"umount of {tmp_path}"):
        kernel.unmount(tmp_path)
    with pytest.raises(OSError, match="pivot_root to"):
        kernel.pivot_root(tmp_path, "old")


def in_a_child(work: object) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()  # type: ignore[operator]
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_namespaces_are_a_process_own(tmp_path: pathlib.Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("root only")

    def work() -> None:
        kernel.unshare(["mount", "network"])
        kernel.mount("none", "/", flags=kernel.PRIVATE | kernel.RECURSIVE)
        kernel.mount("tmpfs", tmp_path, "tmpfs", data="mode=700")
        assert os.path.ismount(tmp_path)
        kernel.loopback_up()
        kernel.unmount(tmp_path)
        assert not os.path.ismount(tmp_path)
        kernel.mount("tmpfs", tmp_path, "tmpfs")
        kernel.end_with_parent()

    assert in_a_child(work) == 0
    assert not os.path.ismount(tmp_path)
