"""The one error of these programs."""

from __future__ import annotations


class ShowError(Exception):
    """Something did not work; the message says what, the hint what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\n  hint: {hint}" if hint else message)
