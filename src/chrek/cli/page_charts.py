"""Charts as SVG: bars, columns over time, steps laid end to end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from chrek.cli import timeline
from chrek.cli.page_html import Safe, tag

WIDTH = 960
_LABEL = 290
"""Columns for the names of bars."""
_NARROW, _WIDE = "fijlrt.,:;|!'()[]/- ", "mwMW@%"
"""Letters of about half and one and a half times the common width."""
_BOLD = 1.15
_COLOURS = ("s0", "s1", "s2", "s3", "s4", "s5")


@dataclasses.dataclass(frozen=True)
class Bar:
    """A named value.

    Attributes:
        label: its name.
        value: its length.
        told: the value for a person.
        colour: a class of the style sheet.
        limit: where a mark is drawn.
    """

    label: str
    value: float
    told: str
    colour: str = "s0"
    limit: float | None = None


@dataclasses.dataclass(frozen=True)
class Column:
    """Starts of an hour or a day."""

    label: str
    warm: int = 0
    cold: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        return self.warm + self.cold + self.failed


@dataclasses.dataclass(frozen=True)
class Row:
    """The steps of one capture or restore."""

    label: str
    told: str
    steps: Mapping[str, float]


def width(text: str) -> float:
    """How wide a text is at most, in the widest of the fonts that browsers come with."""
    return sum(map(_wide, text))


def _wide(letter: str) -> float:
    if letter in _NARROW:
        return 5.4
    if letter in _WIDE or not letter.isascii():
        return 13.2
    return 10.4 if letter.isupper() else 8.3


def cut(text: str, room: float) -> str:
    """As much of a text as has room: its start and, as names differ there, its end."""
    if width(text) <= room:
        return text
    head, tail, left = 0, len(text), room - _wide("…")
    while head < tail:
        at_start = head <= len(text) - tail
        left -= _wide(text[head] if at_start else text[tail - 1])
        if left < 0:
            break
        head, tail = (head + 1, tail) if at_start else (head, tail - 1)
    return f"{text[:head]}…{text[tail:]}"


def some(text: str, room: float) -> str:
    """As many parts of a list as have room, each whole."""
    shown = text
    while width(shown) > room and ", " in shown:
        shown = shown.removesuffix(", …").rpartition(", ")[0] + ", …"
    return cut(shown, room) if width(shown) > room else shown


def _picture(ident: str, title: str, height: float, *parts: Safe) -> Safe:
    name = f"{ident}-title"
    drawn = tag(
        "svg",
        tag("title", title, id=name),
        *parts,
        viewBox=f"0 0 {WIDTH} {math.ceil(height)}",
        role="img",
        aria_labelledby=name,
        id=ident,
    )
    return tag("figure", drawn, tabindex=0)


def bars(ident: str, title: str, items: Sequence[Bar]) -> Safe:
    """Horizontal bars on one scale; limits are marks."""
    top = max((max(one.value, one.limit or 0) for one in items), default=0)
    told = [cut(one.told, 400) for one in items]
    room = WIDTH - _LABEL - max(map(width, told), default=0.0) - 8
    drawn = []
    for place, one in enumerate(items):
        y = place * 24
        length = room * one.value / top if top > 0 else 0.0
        end = max(length, 1.0 if one.value > 0 else 0.0)
        mark = room * one.limit / top if one.limit is not None and top > 0 else None
        drawn.append(
            tag(
                "g",
                tag("title", f"{one.label}: {one.told}"),
                tag("text", cut(one.label, _LABEL - 10), x=0, y=y + 17),
                tag("rect", x=_LABEL, y=y + 5, width=end, height=15, rx=2, class_=one.colour),
                *(
                    []
                    if mark is None
                    else [_line(_LABEL + mark, y + 2, _LABEL + mark, y + 23, "limit")]
                ),
                tag("text", told[place], x=_LABEL + max(end, mark or 0) + 7, y=y + 17),
            )
        )
    return _picture(ident, title, len(items) * 24 + 6, *drawn)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Safe:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def columns(ident: str, title: str, items: Sequence[Column]) -> Safe:
    """Stacked columns: warm below, then cold, then failed."""
    left, height = 40, 190
    most = max((one.total for one in items), default=0) or 1
    step = nice(most / 4, whole=True)
    top = step * math.ceil(most / step)
    half = max((width(one.label) for one in items), default=0.0) / 2
    slot = (WIDTH - left) / max(1, len(items))
    # The newest column has its label, for which there is room on the right.
    slot = (WIDTH - left - max(0.0, half - slot / 2)) / max(1, len(items))
    wide = min(48.0, max(1.5, slot * 0.72))
    drawn = []
    for number in range(round(top / step) + 1):
        y = 14 + height * (1 - number * step / top)
        drawn.append(_line(left, y, left + slot * len(items), y, "grid"))
        told = f"{number * step:.0f}"
        drawn.append(tag("text", told, x=left - 8, y=y + 4, text_anchor="end", class_="muted"))
    every = max(1, math.ceil((2 * half + 16) / slot))
    for place, one in enumerate(items):
        x, base = left + slot * (place + 0.5), 14.0 + height
        parts = [
            tag("title", f"{one.label}: {one.warm} warm, {one.cold} cold, {one.failed} failed")
        ]
        for kind, count in (("warm", one.warm), ("cold", one.cold), ("failed", one.failed)):
            tall = height * count / top
            base -= tall
            if count:
                box = {"x": x - wide / 2, "y": base, "width": wide, "height": tall}
                parts.append(tag("rect", **box, class_=f"{kind} seg"))
        if (len(items) - 1 - place) % every == 0 and x >= half:
            below = {"x": x, "y": height + 34, "text_anchor": "middle", "class_": "muted"}
            parts.append(tag("text", one.label, **below))
        drawn.append(tag("g", *parts))
    return _picture(ident, title, height + 44, *drawn)


def nice(value: float, *, whole: bool = False) -> float:
    """The next of 1, 2, 5, 10, … that is at least so much."""
    if value <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(value))
    found = next(size * one for one in (1, 2, 5, 10) if size * one >= value * (1 - 1e-9))
    return max(1.0, found) if whole else found


def colours(rows: Sequence[Row]) -> dict[str, str]:
    """A colour for each step that takes long; the others share one."""
    sums: dict[str, float] = {}
    for row in rows:
        for name, seconds in row.steps.items():
            sums[name] = sums.get(name, 0.0) + seconds
    longest = sorted(sums, key=lambda name: -sums[name])[: len(_COLOURS)]
    known = dict(zip(timeline.ordered(dict.fromkeys(longest, 0.0)), _COLOURS, strict=False))
    return {name: known.get(name, "other") for name in timeline.ordered(sums)}


def legend(known: Mapping[str, str]) -> Safe:
    """What the colours mean."""
    told = {name: kind for name, kind in known.items() if kind != "other"}
    if len(told) < len(known):
        told["other steps"] = "other"
    items = [
        tag("li", tag("i", class_=kind, aria_hidden="true"), name) for name, kind in told.items()
    ]
    return tag("ul", *items, class_="legend")


def steps(ident: str, title: str, rows: Sequence[Row]) -> Safe:
    """Each row's steps end to end, in their order, on a scale of seconds."""
    known = colours(rows)
    longest = max((timeline.total(row.steps) for row in rows), default=0) or 1.0
    tick = nice(longest / 8)
    # Room is left for the last tick's own text.
    scale = (WIDTH - 30) / longest
    bottom, drawn = len(rows) * 62, []
    for number in range(math.floor(longest / tick * (1 + 1e-9)) + 1):
        x = number * tick * scale
        drawn.append(_line(x + 0.5, 0, x + 0.5, bottom, "grid"))
        told, anchor = f"{number * tick:g} s", "middle" if number else "start"
        drawn.append(tag("text", told, x=x, y=bottom + 16, text_anchor=anchor, class_="muted"))
    for place, row in enumerate(rows):
        y, x = place * 62, 0.0
        total = timeline.total(row.steps)
        parts = [
            tag("text", cut(row.label, 530 / _BOLD), x=4, y=y + 14, class_="strong"),
            tag("text", cut(row.told, 410), x=WIDTH - 4, y=y + 14, text_anchor="end"),
        ]
        for name, seconds in timeline.ordered(row.steps).items():
            wide = max(0.6, seconds * scale)
            box = {"x": x, "y": y + 20, "width": wide, "height": 16}
            drawn_title = tag("title", f"{name} {seconds:.3f} s")
            parts.append(tag("rect", drawn_title, **box, class_=f"{known[name]} seg"))
            x += seconds * scale
        words = f"together {total:.2f} s: {timeline.sentence(row.steps)}"
        parts.append(tag("text", some(words, WIDTH - 8), x=4, y=y + 51, class_="muted"))
        drawn.append(tag("g", *parts))
    return tag("div", legend(known), _picture(ident, title, bottom + 24, *drawn))
