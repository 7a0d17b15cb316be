"""Requests that are worth making once the API server is back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from chrek import errors

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
STARTING_SECONDS = 60.0
"""For so long 401 and 403 may come from an API server that has just started: it serves before it
has read the service accounts and the RBAC objects by which it decides."""
_UNDECIDED = frozenset({401, 403})

Object = dict[str, Any]


async def persist(call: Callable[[], Awaitable[Object]], seconds: float) -> Object:
    """Make a request until the server has answered it, however long it is away.

    Only for requests that may be done twice, as an answer can be lost.

    Args:
        call: sends the request; called again after no answer, status 429 and 5xx, and for
            `STARTING_SECONDS` after 401 and 403.
        seconds: after this long the last error is raised.

    Raises:
        ApiError: the server refused, or was away for too long.
    """
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE_SECONDS
    refused: float | None = None
    while True:
        try:
            return await call()
        except errors.ApiError as err:
            now = time.monotonic()
            if err.status in _UNDECIDED:
                refused = refused or now
                again = now - refused < STARTING_SECONDS
            else:
                again = err.status in (0, 429) or err.status >= 500
            if not again or now + pause > deadline:
                raise
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)
