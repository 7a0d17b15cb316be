"""Until when somebody waits: in tasks as well, and as before afterwards."""

import asyncio
import math
import time

from chrek import deadline


def test_nobody_has_said():
    assert deadline.ends() == deadline.left() == math.inf


def test_inside_and_afterwards():
    with deadline.within(10):
        assert 9 < deadline.left() <= 10
        with deadline.within(100):
            assert 99 < deadline.left() <= 100
        assert deadline.left() <= 10
        assert abs(deadline.ends() - time.monotonic() - 10) < 1
    assert deadline.left() == math.inf


def test_it_is_over():
    with deadline.within(-1):
        assert deadline.left() == 0


def test_tasks_have_it_and_others_have_not():
    async def seen():
        await asyncio.sleep(0)
        return deadline.left()

    async def both():
        other = asyncio.create_task(seen())
        with deadline.within(10):
            mine = asyncio.create_task(seen())
        return await asyncio.gather(mine, other)

    mine, other = asyncio.run(both())
    assert mine <= 10
    assert other == math.inf
