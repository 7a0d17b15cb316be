"""The page of `chrek report`: sections of text, tables and charts."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence

from chrek import quantity, reasons
from chrek.cli import checkpoints, page_bench, page_charts, page_data, printing, records, timeline
from chrek.cli.page_html import Part, Safe, document, join, prose, table, tag

MOST_BARS = 25
MOST_ROWS = 25
"""A longer table scrolls in a box of its own, so that what comes after it is found."""
MOST_TIMELINES = 10
MOST_USERS = 3
_WORDS = {"Ready": "good", "Failed": "bad"}


def render(report: page_data.Report, benches: Sequence[page_bench.Object] = ()) -> str:
    """The HTML of the whole page."""
    where = f"namespace {report.namespace}" if report.namespace else "all namespaces"
    title = f"chrek report: {where}"
    sections = [
        ("checkpoints", "Checkpoints", _checkpoints(report)),
        ("starts", "Starts, warm and cold", _starts(report)),
        ("reasons", "Why starts were cold", _reasons(report)),
        ("restores", "Newest restores", _restores(report)),
        ("captures", "Newest captures", _captures(report)),
        ("sizes", "Sizes", _sizes(report)),
    ]
    if benches:
        sections.append(("bench", "Benchmarks", page_bench.plots([*benches])))
    links = [tag("a", name, href=f"#{ident}") for ident, name, _ in sections]
    # An empty page fits a screen.
    filled = report.rows or report.starts or benches
    notes = (tag("p", f"Not shown: {note}", class_="note") for note in report.notes)
    return document(
        title,
        tag("header", tag("h1", title), _facts(report.facts), *notes, _tiles(report)),
        *([tag("nav", *links, aria_label="Sections")] if filled else []),
        tag("main", *(_section(*one) for one in sections)),
    )


def _section(ident: str, title: str, body: Safe) -> Safe:
    heading = f"{ident}-heading"
    return tag("section", tag("h2", title, id=heading), body, id=ident, aria_labelledby=heading)


def _facts(facts: Mapping[str, str]) -> Safe:
    told = [
        tag("div", tag("dt", label), tag("dd", value)) for label, value in facts.items() if value
    ]
    return tag("dl", *told, class_="facts")


def _tiles(report: page_data.Report) -> Safe:
    phases: dict[str, int] = {}
    for row in report.rows:
        phases[row.phase or "not noticed"] = phases.get(row.phase or "not noticed", 0) + 1
    counts = page_data.count(report.starts)
    warm = sum(counts[word] for word in page_data.WARM)
    every = sum(counts[word] for word in page_data.STARTED)
    cold = sum(counts[word] for word in page_data.COLD)
    stored = sum(one.artifact.bytes for one in report.artifacts)
    tiles = [
        (
            "Checkpoints",
            f"{len(report.rows):,}",
            _list(f"{n} {name}" for name, n in phases.items()),
        ),
        ("Stored", quantity.human(stored), printing.many(len(report.artifacts), "artifact")),
        (
            "Warm starts",
            f"{warm:,} of {every:,}",
            f"{100 * warm / every:.0f} %" if every else "none yet",
        ),
        ("Cold starts", f"{cold:,}", printing.many(every - warm - cold, "failed restore")),
    ]
    told = [
        tag("div", tag("dt", name), tag("dd", value, tag("small", more)))
        for name, value, more in tiles
    ]
    return tag("dl", *told, class_="tiles")


def _list(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"


def _checkpoints(report: page_data.Report) -> Safe:
    if not report.rows:
        return _nothing(report)
    everywhere = not report.namespace
    header = ["Name", "Phase", "Model", "Variants", "Size", "Age", "Last used", "Used by"]
    found = sorted(report.rows, key=lambda row: row.phase == "Ready")
    rows = [_row(row, report.now) for row in found]
    if everywhere:
        header.insert(1, "Namespace")
        for cells, row in zip(rows, found, strict=True):
            cells.insert(1, row.namespace)
    size = header.index("Size")
    first = "" if found[0].phase == "Ready" else "those that are not Ready first, then "
    caption = f"{printing.many(len(rows), 'checkpoint')}, {first}by name"
    tall = len(rows) > MOST_ROWS
    return table(caption, header, rows, numbers=(size, size + 1), tall=tall)


def _row(row: records.Checkpoint, now: datetime.datetime) -> list[Part]:
    kind = _WORDS.get(row.phase, "wait")
    why: list[Part] = [tag("span", row.phase or "not noticed yet", class_=f"word {kind}")]
    if row.phase != "Ready" and (row.reason or row.message):
        words = ": ".join(text for text in (row.reason, row.message) if text)
        why.append(tag("span", words, class_="why muted"))
    backend = [tag("br"), tag("span", row.backend, class_="muted")] if row.backend else []
    return [
        row.name,
        join(why),
        join([row.model or checkpoints.NONE, *backend]),
        checkpoints.count(row),
        checkpoints.size(row),
        printing.age(row.created_at, now),
        printing.ago(row.last_used_at, now) or "never",
        _users(row),
    ]


def _users(row: records.Checkpoint) -> Safe:
    if row.users is None:
        return join(["? (pods may not be listed)"])
    told = [f"pod/{name}" for name in row.users.pods] + [f"dgd/{name}" for name in row.users.graphs]
    more = len(told) - MOST_USERS
    shown = told[:MOST_USERS] + [f"and {more} more"] * (more > 0)
    return _names(shown or ["nobody"])


def _names(found: Iterable[str]) -> Safe:
    return join(tag("span", name, class_="name") for name in found)


def _nothing(report: page_data.Report) -> Safe:
    option = f" -n {report.namespace}" if report.namespace else ""
    where = f"namespace {report.namespace}" if report.namespace else "this cluster"
    command = f"{report.program} checkpoint deployment/NAME{option} --model MODEL --backend vllm"
    return join(
        [
            tag("p", f"There are no checkpoints in {where}."),
            tag("p", "Make one of a workload that runs: ", tag("code", command)),
            tag(
                "p", "See whether chrek is well: ", tag("code", f"{report.program} doctor{option}")
            ),
        ]
    )


def _sizes(report: page_data.Report) -> Safe:
    found = [one for one in report.artifacts if one.artifact.bytes > 0]
    if not found:
        return tag("p", "No artifact is stored.")
    found.sort(key=lambda one: (-one.artifact.bytes, one.checkpoint.name))
    bars = [
        page_charts.Bar(
            _artifact(report, one),
            one.artifact.bytes,
            f"{quantity.human(one.artifact.bytes)}{' suspect' * one.artifact.suspect}",
            "cold" if one.artifact.suspect else "warm",
        )
        for one in found[:MOST_BARS]
    ]
    rest = found[MOST_BARS:]
    more = []
    if rest:
        size = quantity.human(sum(one.artifact.bytes for one in rest))
        words = f"And {printing.many(len(rest), 'smaller artifact')}, together {size}."
        more.append(tag("p", words, class_="muted"))
    return join([page_charts.bars("sizes-chart", "Sizes of the largest artifacts", bars), *more])


def _artifact(report: page_data.Report, one: page_data.Captured) -> str:
    namespace = "" if report.namespace else f"{one.checkpoint.namespace}/"
    image = one.artifact.image.rpartition("/")[2] or one.artifact.variant
    return f"{namespace}{one.checkpoint.name}, {image}"


def _starts(report: page_data.Report) -> Safe:
    counts = page_data.count(report.starts)
    unit, columns, older = page_data.over_time(report.starts)
    others = {word: n for word, n in counts.items() if word not in page_data.STARTED}
    more: list[Safe] = []
    if others:
        words = ", ".join(f"{n} {word}" for word, n in sorted(others.items()))
        more.append(tag("p", f"Managed pods that are in no column: {words}.", class_="muted"))
    if older:
        words = f"{printing.many(older, 'start')} before {columns[0].label} not shown."
        more.append(tag("p", words, class_="muted"))
    if not columns:
        text = (
            "No pod or Event tells of a start yet. A pod starts warm when it carries the "
            "annotation `nvidia.com/chrek-checkpoint: NAME` and the checkpoint is Ready."
        )
        if not report.pods_known:
            text = "Pods may not be listed, so nothing is known of starts."
        return join([tag("p", prose(text)), *more])
    names = (("warm", "warm"), ("cold", "cold"), ("failed", "failed or unwell after a restore"))
    legend = tag(
        "ul",
        *(tag("li", tag("i", class_=kind, aria_hidden="true"), told) for kind, told in names),
        class_="legend",
    )
    zone = "times in UTC; of each pod its last start, and those of which Events are still there"
    rows = [(c.label, str(c.warm), str(c.cold), str(c.failed)) for c in columns if c.total]
    numbers = table(
        f"Starts by {unit}", [unit.title(), "Warm", "Cold", "Failed"], rows, numbers=(1, 2, 3)
    )
    return join(
        [
            tag("p", f"Starts by {unit}, {zone}.", class_="muted"),
            legend,
            page_charts.columns("starts-chart", f"Starts by {unit}, warm and cold", columns),
            tag("details", tag("summary", "The same as a table"), numbers),
            *more,
        ]
    )


def _reasons(report: page_data.Report) -> Safe:
    found = page_data.colds(report.starts)
    if not found:
        return tag("p", "No start was cold." if report.pods_known else "No cold start is known.")
    rows: list[list[Part]] = []
    for one in found:
        newest, advice = one.starts[0], reasons.advice(one.reason)
        checkpoint = newest.wanted and f"{newest.wanted} -n {newest.namespace}"
        action = advice.of(checkpoint=checkpoint, pod=newest.pod)
        pods = list(dict.fromkeys(start.pod for start in one.starts))
        more = [f"and {len(pods) - MOST_USERS} more"] * (len(pods) > MOST_USERS)
        rows.append(
            [
                one.reason or "unknown",
                str(len(one.starts)),
                tag("span", prose(advice.meaning), class_="words"),
                tag("span", prose(action or "nothing"), class_="words"),
                _names(pods[:MOST_USERS] + more),
                printing.ago(newest.told.at, report.now) or "?",
                newest.told.message,
            ]
        )
    header = ["Reason", "Starts", "Means", "Do", "Pods", "Last", "In its own words"]
    return table("Reasons, the most frequent first", header, rows, numbers=(1,))


def _restores(report: page_data.Report) -> Safe:
    warm = [one for one in report.starts if one.told.outcome in page_data.WARM]
    found = [one for one in warm if one.told.steps][:MOST_TIMELINES]
    if not found:
        if not warm:
            return tag("p", "No restore is known.")
        text = f"No pod tells the steps of its restore; `{report.program} explain POD` says where."
        return tag("p", prose(text))
    rows = [
        page_charts.Row(
            f"{'' if report.namespace else one.namespace + '/'}{one.pod}",
            _told(one.told.at, report.now, one.wanted and f"of {one.wanted}"),
            one.told.steps,
        )
        for one in found
    ]
    return join([_overlap(), page_charts.steps("restores-chart", "Steps of restores", rows)])


def _captures(report: page_data.Report) -> Safe:
    found = [one for one in report.artifacts if timeline.total(one.artifact.steps) > 0]
    if not found:
        return tag("p", "No capture with steps is known.")
    found.sort(key=lambda one: one.artifact.created_at, reverse=True)
    rows = []
    for one in found[:MOST_TIMELINES]:
        node = f"on {one.artifact.node}" if one.artifact.node else ""
        size = quantity.human(one.artifact.bytes)
        told = _told(one.artifact.created_at, report.now, f"{size} {node}".strip())
        rows.append(page_charts.Row(_artifact(report, one), told, one.artifact.steps))
    return join([_overlap(), page_charts.steps("captures-chart", "Steps of captures", rows)])


def _told(at: str, now: datetime.datetime, more: str) -> str:
    return ", ".join(filter(None, (more, printing.ago(at, now))))


def _overlap() -> Safe:
    words = (
        "Steps end to end in their order. How long each took is measured, when it began is not: "
        "some overlap, so that the whole may have taken less than their sum."
    )
    return tag("p", words, class_="muted")
