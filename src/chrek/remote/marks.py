"""Marks of those who make an artifact, or refer to packs for another reason: see `prune`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from chrek import deadline, errors, log
from chrek.remote import backend

LOG = log.get(__name__)
END_SECONDS = 5.0
"""A mark that cannot be taken back counts until it is too old."""


@contextlib.asynccontextmanager
async def marked(server: backend.Backend, key: backend.Key) -> AsyncIterator[None]:
    """While inside, others see that this is being made.

    Raises:
        StoreError: it cannot be said.
    """
    await server.begin(key)
    try:
        yield
    finally:
        try:
            # Also when what was inside had no time left.
            with deadline.within(END_SECONDS):
                async with asyncio.timeout(END_SECONDS):
                    await server.end(key)
        except (errors.ChrekError, TimeoutError) as err:
            LOG.info("mark not taken back", uuid=key.uuid, error=str(err))
