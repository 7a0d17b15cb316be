"""Requests to servers that are asked again, told to whoever counts them.

Stores and registries know nothing of metrics, which commands do not load.
"""

from __future__ import annotations

from collections.abc import Callable

OPERATIONS = {
    "GET": "get",
    "HEAD": "get",
    "LIST": "list",
    "PUT": "put",
    "POST": "put",
    "PATCH": "put",
    "DELETE": "delete",
}
"""Names of requests -> the kind of operation that they are of."""

_listeners: list[Callable[[str], None]] = []


def listen(listener: Callable[[str], None]) -> None:
    """Have each retry told, from any thread, by its kind of operation."""
    _listeners.append(listener)


def count(request: str) -> None:
    """Tell of a request that is sent once more."""
    for listener in _listeners:
        listener(OPERATIONS.get(request, "other"))
