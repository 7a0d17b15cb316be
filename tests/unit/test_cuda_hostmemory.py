"""Host memory for the memory of GPUs: what is refused, and what it takes."""

import pathlib

import pytest

from chrek import errors, names
from chrek.cuda import hostmemory

GI = 1 << 30
WHAT = "GPU memory"


def refused(*arguments):
    with pytest.raises(errors.UnsupportedError) as failed:
        hostmemory.check(*arguments, WHAT)
    assert failed.value.reason == names.Reason.INSUFFICIENT_HOST_MEMORY
    return failed.value


def test_the_limit_to_set_is_told():
    error = refused(42 * GI, 64 * GI, 48 * GI, 500 * GI)
    assert error.message == (
        "GPU memory of 42.0Gi has to go through host memory, 46.2Gi with the driver's own:"
        " the container may use 16.0Gi more of its limit of 64.0Gi"
    )
    assert error.hint == "set resources.limits.memory to at least 95Gi"


@pytest.mark.parametrize(
    ("needed", "limit", "used"), [(42 * GI, 64 * GI, 48 * GI), (1, GI, GI), (10 * GI, 0, 0)]
)
def test_the_limit_that_is_told_is_enough_and_no_larger(needed, limit, used):
    told = refused(needed, limit, used, None).hint
    gibibytes = int(told.removeprefix("set resources.limits.memory to at least ")[:-2])
    hostmemory.check(needed, gibibytes * GI, used, None, WHAT)
    refused(needed, (gibibytes - 1) * GI, used, None)


def test_the_node_has_too_little():
    error = refused(42 * GI, 500 * GI, GI, 40 * GI)
    assert error.message.endswith("46.2Gi with the driver's own: the node has 40.0Gi available")
    assert error.hint == "raise resources.requests.memory by it, so that the node keeps it free"


def test_headroom_is_asked_for():
    hostmemory.check(10 * GI, 11 * GI, 0, 11 * GI, WHAT)
    refused(10 * GI, 11 * GI - 1, 0, None)
    refused(10 * GI, None, None, 11 * GI - 1)
    assert hostmemory.HEADROOM == 1.1


@pytest.mark.parametrize(
    ("limit", "used", "available"),
    [(None, None, None), (None, 900 * GI, 99 * GI), (64 * GI, None, None), (64 * GI, 0, None)],
)
def test_what_is_not_known_refuses_nothing(limit, used, available):
    hostmemory.check(42 * GI, limit, used, available, WHAT)


def test_a_container_over_its_limit_has_nothing_left():
    assert "may use 0 more of its limit of 1.0Gi" in refused(1, GI, 2 * GI, None).message


MEMINFO = """\
MemTotal:       131923632 kB
MemFree:          912344 kB
MemAvailable:   98765432 kB
Buffers:            4096 kB
"""


def test_what_the_node_can_give(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    assert hostmemory.available(meminfo) == 98765432 * 1024
    meminfo.write_text("MemTotal: 1 kB\n")
    assert hostmemory.available(meminfo) is None
    assert hostmemory.available(pathlib.Path("/nowhere")) is None


def test_this_node_has_something_to_give():
    assert 0 < hostmemory.available() < 1 << 50
