"""Plots of results of benchmarks: medians, and the limits that a file names for them."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from chrek import errors, quantity
from chrek.cli import page_charts
from chrek.cli.page_html import Safe, join, tag

Object = dict[str, Any]

_UNITS = (
    ("_bytes_per_second", "bytes/s"),
    ("_milliseconds", "ms"),
    ("_seconds", "s"),
    ("_mebibytes", "MiB"),
    ("_bytes", "bytes"),
    ("_percent", "%"),
)
_STORE = {
    "read_verified_of_read": "read",
    "up_of_peer": "transfer",
    "down_of_peer": "transfer",
    "peak_bytes": "memory",
    "sealed_of_plain_seconds": "sealed",
}
"""A figure of `scripts/bench store` -> the aim that is about it."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number of a benchmark.

    Attributes:
        label: for a person.
        value: the median.
        unit: empty for a count.
        limit: None where the file has none.
        met: None where the file does not say.
        floor: whether the limit is what the machine itself needs, which nothing can be below.
    """

    label: str
    value: float
    unit: str = ""
    limit: float | None = None
    met: bool | None = None
    floor: bool = False


def read(directory: pathlib.Path) -> list[Object]:
    """The results in a directory.

    Raises:
        InputError: it cannot be read, or has none.
    """
    hint = "give the directory that `scripts/bench` writes to, such as docs/bench"
    found = []
    try:
        for path in sorted(directory.glob("*.json")):
            document = json.loads(path.read_text())
            if isinstance(document, dict) and "what" in document:
                found.append({**document, "file": path.name})
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as err:
        raise errors.InputError(f"cannot read benchmarks of {directory}: {err}", hint=hint) from err
    if not found:
        raise errors.InputError(f"{directory} has no results of benchmarks", hint=hint)
    return found


def figures(document: Mapping[str, Any]) -> list[Figure]:
    """The medians of a result, with their limits; numbers that cannot be told are left out."""
    made = list(_figures(document))
    return [one for one in made if math.isfinite(one.value) and one.value >= 0]


def _figures(document: Mapping[str, Any]) -> Iterator[Figure]:
    aims = document.get("aims") if isinstance(document.get("aims"), Mapping) else {}
    for part in ("medians", "figures"):
        found = document.get(part)
        if isinstance(found, Mapping):
            yield from _flat(found, aims or {})
    if document["what"] == "restore":
        yield from _restores(document)
    if document["what"] == "store":
        yield from _stores(document)
    if document["what"] == "vllm":
        yield from _runs(document)


def _flat(found: Mapping[str, Any], aims: Mapping[str, Any]) -> Iterator[Figure]:
    for key, value in found.items():
        if not _is_number(value) or key.endswith(("_limit", "_kept")):
            continue
        aim = aims.get(key)
        aim = aim if isinstance(aim, Mapping) else {}
        limit = found.get(f"{key}_limit", aim.get("aim"))
        met = found.get(f"{key}_kept", aim.get("met"))
        label, unit = _named(key)
        yield Figure(
            label,
            float(value),
            unit,
            limit=float(limit) if _is_number(limit) else None,
            met=met if isinstance(met, bool) else None,
        )


def _restores(document: Mapping[str, Any]) -> Iterator[Figure]:
    told = {one.get("gibibytes"): one for one in _list(document.get("figures"))}
    for one in _list(document.get("sizes")):
        limits, size = one.get("limits_seconds") or {}, one.get("gibibytes")
        for kind, words in (("warm", "in the page cache"), ("cold", "on the disk")):
            ours = (one.get(f"restore_{kind}") or {}).get("ours_seconds")
            need = [limits.get(f"read_{kind}"), limits.get("first_touch")]
            known = [float(one) for one in need if _is_number(one)]
            if not _is_number(ours):
                continue
            met = told.get(size, {}).get("limit_aim_met") if kind == "warm" else None
            yield Figure(
                f"restore {size:g} GiB, {words}",
                float(ours),
                "s",
                limit=max(known) if len(known) == len(need) else None,
                met=met if isinstance(met, bool) else None,
                floor=True,
            )


def _stores(document: Mapping[str, Any]) -> Iterator[Figure]:
    for one in _list(document.get("figures")):
        size = one.get("gibibytes")
        for key, value in one.items():
            if key == "gibibytes" or not _is_number(value):
                continue
            label, unit = _named(key)
            unit = "times" if "_of_" in key else unit
            met = one.get(f"{_STORE.get(key, key)}_aim_met")
            met = met if isinstance(met, bool) else None
            yield Figure(f"{label}, {size:g} GiB", float(value), unit, met=met)


def _runs(document: Mapping[str, Any]) -> Iterator[Figure]:
    for run in _list(document.get("runs")):
        size = run.get("tensor_parallel_size", "?")
        cold = (run.get("cold") or {}).get("ready")
        ready = [one.get("ready") for one in _list(run.get("warm"))]
        warm = [float(one) for one in ready if _is_number(one)]
        if _is_number(cold):
            yield Figure(f"cold start until Ready, TP {size}", float(cold), "s")
        if warm:
            yield Figure(f"warm start until Ready, TP {size}", statistics.median(warm), "s")


def _list(found: object) -> list[Object]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _named(key: str) -> tuple[str, str]:
    for suffix, unit in _UNITS:
        if key.endswith(suffix):
            return key.removesuffix(suffix).replace("_", " "), unit
    return key.replace("_", " "), "times" if "_of_" in key else ""


def plots(documents: list[Object]) -> Safe:
    """A part for each result: figures with limits, then the others by unit."""
    return join(_part(number, one) for number, one in enumerate(documents))


def _part(number: int, document: Object) -> Safe:
    found = figures(document)
    machine = document.get("machine")
    machine = machine if isinstance(machine, Mapping) else {}
    about = [document["file"], document.get("workload")]
    about += [machine.get(key) for key in ("date", "cpu")]
    about += [f"node {one.get('name')}" for one in _list(machine.get("nodes"))]
    if machine.get("cpus"):
        about.append(f"{machine['cpus']} cores")
    parts = [
        tag("h3", f"Benchmark {document['what']}"),
        tag("p", ", ".join(str(one) for one in about if one), class_="muted"),
    ]
    if not found:
        return join([*parts, tag("p", "The file has no figures that can be drawn.")])
    limited = [one for one in found if one.limit]
    if limited:
        floors = any(one.floor for one in limited)
        words = (
            "Each bar is a median in shares of what the machine took to touch or read so much "
            "memory without any restore, the mark."
            if floors
            else "Each bar is a median in shares of its limit, the mark: left of it is within."
        )
        bars = [_limited(one) for one in limited]
        title = f"Benchmark {document['what']} against limits"
        parts += [
            tag("p", words, class_="muted"),
            page_charts.bars(f"bench-{number}-limits", title, bars),
        ]
    rest = [one for one in found if not one.limit]
    units = [one.unit for one in rest]
    for place, unit in enumerate(dict.fromkeys(units)):
        if _is_drawn(unit, units):
            bars = [
                page_charts.Bar(one.label, one.value, _told(one), _colour(one))
                for one in rest
                if one.unit == unit
            ]
            title = f"Benchmark {document['what']}, {unit}"
            parts.append(page_charts.bars(f"bench-{number}-{place}", title, bars))
    others = [f"{one.label} {_told(one)}" for one in rest if not _is_drawn(one.unit, units)]
    if others:
        parts.append(tag("p", f"Also: {'; '.join(others)}."))
    return join(parts)


def _is_drawn(unit: str, units: list[str]) -> bool:
    """Whether numbers have a scale in common."""
    return bool(unit) and units.count(unit) > 1


def _limited(one: Figure) -> page_charts.Bar:
    limit = one.limit or 1.0
    told = f"{_amount(one.value, one.unit)} of {_amount(limit, one.unit)}{_met(one.met)}"
    return page_charts.Bar(one.label, one.value / limit, told, _colour(one), limit=1.0)


def _told(one: Figure) -> str:
    limit = f" of {_amount(one.limit, one.unit)}" if one.limit is not None else ""
    return f"{_amount(one.value, one.unit)}{limit}{_met(one.met)}"


def _met(met: bool | None) -> str:
    return "" if met is None else (", aim met" if met else ", aim missed")


def _colour(one: Figure) -> str:
    return "cold" if one.met is False else "warm"


def _amount(value: float, unit: str) -> str:
    if unit.startswith("bytes"):
        return quantity.human(int(value)) + unit.removeprefix("bytes")
    return f"{value:.4g} {unit}".rstrip() if value < 1000 else f"{value:,.0f} {unit}".rstrip()
