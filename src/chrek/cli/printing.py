"""What commands print: tables, screens of fields, JSON, YAML and names.

On a terminal a screen is wrapped and coloured by `rich`, which is imported only then; elsewhere
each field is one line, whatever its length, for `grep` and files.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import msgspec
    from rich import console as consoles

OUTPUTS = ("table", "json", "yaml", "name")
STYLES = {
    "Ready": "green",
    "restored": "green",
    "Creating": "yellow",
    "Pending": "yellow",
    "Failed": "red",
    "failed": "red",
    "unhealthy": "red",
    "cold": "yellow",
    "skipped": "yellow",
    "unmanaged": "yellow",
}
"""Phase or outcome -> colour on a terminal."""
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`-o`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(OUTPUTS),
        default="table",
        show_default=True,
        help="table: for a person. name: names alone, a line each.",
    )(command)


def data(output: str, record: msgspec.Struct, names: Iterable[str]) -> None:
    """Print a record as JSON, YAML or names."""
    import msgspec

    if output == "name":
        for name in names:
            click.echo(name)
        return
    write(output, msgspec.to_builtins(record))


def write(output: str, document: Any) -> None:
    """Print an object as JSON or YAML."""
    if output == "json":
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    import yaml

    # libyaml, where it is there, is ten times as fast.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=2**20)
    click.echo(text, nl=False)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Aligned lines, the header first; the last column is as long as it is."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def coloured(text: str, word: str) -> str:
    """A line with the first appearance of a phase in its colour; pipes and files get none."""
    style = STYLES.get(word)
    if not style or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    before, found, after = text.partition(f" {word} ")
    return f"{before} {click.style(word, fg=style)} {after}" if found else text


def many(number: int, word: str) -> str:
    """Such as `1 artifact` or `1,200 artifacts`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def age(text: str, now: datetime.datetime) -> str:
    """How long ago a time was, as kubectl tells it, such as `5m` or `3d`; empty without one."""
    found = when(text)
    return duration((now - found).total_seconds()) if found else ""


def when(text: str) -> datetime.datetime | None:
    """A time as Kubernetes writes it; None where it is none."""
    try:
        found = datetime.datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


def ago(text: str, now: datetime.datetime) -> str:
    """Such as `5m ago`; empty without a time."""
    found = age(text, now)
    return f"{found} ago" if found else ""


def duration(seconds: float) -> str:
    """Such as `45s`, `5m`, `7h` or `3d`: two of the smaller unit are still told in it."""
    whole = max(0, int(seconds))
    for size, unit in _UNITS:
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


class Screen:
    """Headings, fields and commands, shown together at the end."""

    def __init__(self, console: consoles.Console | None = None) -> None:
        """Begin an empty screen.

        Args:
            console: where it goes; by default standard output.
        """
        self._console = console
        self._items: list[tuple[str, str, str, str]] = []

    def heading(self, text: str, word: str = "") -> None:
        """A line of its own; `word` in it has a colour."""
        self._items.append(("heading", "", text, word))

    def field(self, label: str, value: str, word: str = "") -> None:
        """A labelled value, whose lines stand below each other; nothing without a value."""
        if value:
            self._items.append(("field", label, value, word))

    def command(self, text: str) -> None:
        """A command to copy, which is never broken into lines."""
        if text:
            self._items.append(("command", "", text, ""))

    def line(self, text: str = "") -> None:
        """A plain line."""
        self._items.append(("line", "", text, ""))

    def show(self) -> None:
        """Print it all."""
        width = max((len(label) for kind, label, *_ in self._items if kind == "field"), default=0)
        if self._console is None and not sys.stdout.isatty():
            for item in self._items:
                click.echo(_plain(*item[:3], width=width))
            return
        self._show_on(self._console or _console(), width)

    def _show_on(self, console: consoles.Console, width: int) -> None:
        from rich import table as tables
        from rich import text as texts

        for kind, label, value, word in self._items:
            body = texts.Text(value)
            if word in STYLES:
                body.highlight_words([word], STYLES[word])
            if kind == "field":
                grid = tables.Table.grid(padding=(0, 2))
                grid.add_column(no_wrap=True, min_width=width)
                grid.add_column(overflow="fold")
                grid.add_row(texts.Text(label, style="bold"), body)
                console.print(grid)
            elif kind == "command":
                console.print(texts.Text(f"  {value}", style="cyan"), soft_wrap=True)
            else:
                body.style = "bold" if kind == "heading" else ""
                console.print(body)


def _console() -> consoles.Console:
    from rich import console

    return console.Console(highlight=False, markup=False)


def _plain(kind: str, label: str, value: str, *, width: int) -> str:
    if kind == "field":
        first, *more = value.splitlines()
        lines = [f"{label.ljust(width)}  {first}", *(f"{' ' * width}  {line}" for line in more)]
        return "\n".join(lines)
    return f"  {value}" if kind == "command" else value
