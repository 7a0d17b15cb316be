"""Hugetlb memory is known by its device, however it was asked for."""

import mmap
import os

import pytest

from chrek import hugetlb, procfs

MOUNTS = procfs.parse_mountinfo("30 1 0:77 / /huge rw - hugetlbfs none rw\n")


@pytest.fixture
def devices():
    return hugetlb.devices([])


@pytest.fixture
def memfd():
    fd = os.memfd_create("x", 4)
    yield fd
    os.close(fd)


def test_ordinary_memory_is_none(devices):
    with mmap.mmap(-1, 4096):
        assert not hugetlb.is_mapped(os.getpid(), devices)
    fd = os.memfd_create("x")
    assert not hugetlb.is_descriptor(os.getpid(), fd, devices)
    os.close(fd)


def test_a_mapping_of_which_no_page_was_touched(devices):
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x44000
    with mmap.mmap(-1, 2 << 20, flags):
        assert hugetlb.is_mapped(os.getpid(), devices)
    assert not hugetlb.is_mapped(os.getpid(), devices)


def test_a_descriptor_that_is_not_mapped(devices, memfd):
    assert hugetlb.is_descriptor(os.getpid(), memfd, devices)


def test_a_file_system_of_the_container():
    assert os.makedev(0, 77) in hugetlb.devices(MOUNTS)


def test_a_size_that_cannot_be_asked_for_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "hugepages-12kB").mkdir()
    monkeypatch.setattr(hugetlb, "FOLDER", tmp_path)
    assert hugetlb.devices([]) == frozenset()


def test_segments_are_attached_and_let_go(devices, monkeypatch):
    number = hugetlb._libc.shmget(0, 4096, 0o1600)
    assert number >= 0
    try:
        monkeypatch.setattr("chrek.ipcns.inside", lambda pid, work: work())
        assert hugetlb.segments(1, [number], devices) == []
        assert hugetlb.segments(1, [number], {1 << 60}) == []
        own = hugetlb._segment_devices(number)
        assert len(own) == 1
        assert hugetlb.segments(1, [number], frozenset(own)) == [number]
        with open("/proc/self/maps") as maps:
            assert "/SYSV" not in maps.read()
    finally:
        hugetlb._libc.shmctl(number, 0, None)
    assert hugetlb.segments(1, [number], frozenset(own)) == []
