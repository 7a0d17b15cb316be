"""HTML that cannot be broken by what stands in it: every text is escaped unless it is `Safe`."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""What no HTML may hold, and what turns letters around: `gnp.exe` would read `exe.png`."""
_VOID = ("meta", "br")
_TABLES = ("html", "head", "body", "main", "header", "section", "table", "tbody", "svg", "g")
"""Elements whose children stand on lines of their own."""


class Safe(str):
    """Markup of our own."""

    __slots__ = ()


Part = str | int | float


def escape(value: object) -> str:
    """A text as HTML; characters that it may not have become replacement characters."""
    return html.escape(_CONTROLS.sub("\ufffd", str(value)))


def join(parts: Iterable[Part]) -> Safe:
    """Texts and markup, one after the other."""
    return Safe("".join(part if isinstance(part, Safe) else escape(part) for part in parts))


def tag(name: str, /, *parts: Part, **attributes: object) -> Safe:
    """An element.

    Args:
        name: of the element, which is a constant of this program.
        parts: children; texts are escaped.
        attributes: `class_` is `class`, `stroke_width` is `stroke-width`; None is left out.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Safe(f"<{name}{told}>")
    gap = "\n" if name in _TABLES else ""
    end = "\n" if name in ("tr", "p", "h1", "h2", "h3") else ""
    return Safe(f"<{name}{told}>{gap}{join(parts)}</{name}>{gap}{end}")


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def prose(text: str) -> Safe:
    """A sentence in which `commands` stand between backticks."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return join([text])
    return join(tag("code", piece) if n % 2 else piece for n, piece in enumerate(pieces))


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[Part]],
    *,
    numbers: Sequence[int],
    tall: bool = False,
) -> Safe:
    """A table that can be scrolled sideways; the first cell of a row is its header.

    Args:
        caption: what it shows.
        header: of the columns.
        rows: cells; a cell of markup may be `Safe`.
        numbers: the columns that are aligned as numbers.
        tall: whether it scrolls downwards too, under its header.
    """
    kinds = ["num" if place in numbers else None for place in range(len(header))]
    heads = [
        tag("th", name, scope="col", class_=kind) for name, kind in zip(header, kinds, strict=True)
    ]
    lines = []
    for first, *cells in rows:
        told = [tag("th", first, scope="row")]
        told += [tag("td", one, class_=kind) for one, kind in zip(cells, kinds[1:], strict=True)]
        lines.append(tag("tr", *told))
    return tag(
        "div",
        tag(
            "table",
            tag("caption", tag("span", caption)),
            tag("thead", tag("tr", *heads)),
            tag("tbody", *lines),
        ),
        class_=f"scroll{' tall' * tall}",
        tabindex=0,
        role="region",
        aria_label=caption,
    )


STYLE = """
:root { color-scheme: light dark;
  --bg: #ffffff; --fg: #1b1f24; --muted: #57606a; --line: #d0d7de; --panel: #f6f8fa;
  --shade: #1b1f2433;
  --warm: #0b6e99; --cold: #b45309; --failed: #b42318; --good: #1a7f37; --other: #57606a;
  --s0: #0b6e99; --s1: #b45309; --s2: #6f42c1; --s3: #1a7f37; --s4: #b42369; --s5: #806600; }
@media (prefers-color-scheme: dark) { :root {
  --bg: #0f1419; --fg: #e6edf3; --muted: #a3afbb; --line: #343c45; --panel: #171d24;
  --shade: #e6edf333;
  --warm: #4cb3e6; --cold: #f0a83c; --failed: #ff8a80; --good: #56d364; --other: #8b98a5;
  --s0: #4cb3e6; --s1: #f0a83c; --s2: #b392f0; --s3: #56d364; --s4: #ff7eb6; --s5: #d9c04a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg); overflow-wrap: break-word;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main, header, nav { max-width: 84rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 1.5rem; } main { padding-bottom: 3rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding-top: 1rem; }
a { color: var(--warm); }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
p { margin: .4rem 0; max-width: 60rem; } .muted { color: var(--muted); }
dl.facts { display: flex; flex-wrap: wrap; gap: .2rem 1.6rem; margin: 0; }
dl.facts div { display: flex; gap: .4rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr));
  gap: .8rem; margin: 1.2rem 0 0; }
dl.tiles div { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem .9rem; display: flex; flex-direction: column; }
dl.tiles dd { font-size: 1.45rem; font-weight: 600; line-height: 1.3; }
dl.tiles dd small { display: block; font-size: .85rem; font-weight: 400; color: var(--muted); }
code { font: .9em ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  background: var(--panel); border: 1px solid var(--line); border-radius: 4px; padding: 0 .25em;
  overflow-wrap: anywhere; }
/* A shadow says on which side there is more. */
.scroll, figure { overflow-x: auto; margin: .6rem 0; background:
  linear-gradient(to right, var(--bg) 40%, transparent) 0 0 / 3rem 100% local no-repeat,
  linear-gradient(to left, var(--bg) 40%, transparent) 100% 0 / 3rem 100% local no-repeat,
  linear-gradient(to right, var(--shade), transparent) 0 0 / .8rem 100% no-repeat,
  linear-gradient(to left, var(--shade), transparent) 100% 0 / .8rem 100% no-repeat; }
.tall { max-height: 40rem; } .tall thead th { position: sticky; top: 0; background: var(--bg);
  box-shadow: 0 1px var(--line); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--muted); padding-bottom: .3rem; }
caption span { display: inline-block; max-width: calc(100vw - 3rem); }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0;
  border-bottom: 1px solid var(--line); unicode-bidi: isolate; max-width: 24rem; }
thead th { color: var(--muted); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; min-width: 7rem; }
span.name { display: block; min-width: 12rem; overflow-wrap: anywhere; }
#checkpoints span.name { width: max-content; min-width: 0; max-width: 20rem; }
#checkpoints tbody th { min-width: 10rem; max-width: 18rem; }
span.why { display: block; min-width: 11rem; overflow-wrap: anywhere; }
span.words { display: block; min-width: 14rem; }
td code { border: 0; padding: 0; overflow-wrap: break-word; }
.num { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.word { font-weight: 600; overflow-wrap: anywhere; }
.word::before { content: "\\25CF\\00A0"; }
.good { color: var(--good); } .bad { color: var(--failed); } .wait { color: var(--cold); }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0;
  margin: .4rem 0; font-size: .9rem; }
ul.legend li { overflow-wrap: anywhere; }
ul.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin-right: .4em; }
svg { display: block; width: 100%; min-width: 52rem; height: auto; }
svg text { fill: var(--fg); font-size: 13px; paint-order: stroke; stroke: var(--bg);
  stroke-width: 3px; stroke-linejoin: round; } svg text.muted { fill: var(--muted); }
svg text.strong { font-weight: 600; } svg .grid { stroke: var(--line); }
svg .limit { stroke: var(--fg); stroke-width: 2; stroke-dasharray: 4 2; }
svg .seg { stroke: var(--bg); stroke-width: 1; }
.warm { fill: var(--warm); background: var(--warm); }
.cold { fill: var(--cold); background: var(--cold); }
.failed { fill: var(--failed); background: var(--failed); }
.other { fill: var(--other); background: var(--other); }
.s0 { fill: var(--s0); background: var(--s0); } .s1 { fill: var(--s1); background: var(--s1); }
.s2 { fill: var(--s2); background: var(--s2); } .s3 { fill: var(--s3); background: var(--s3); }
.s4 { fill: var(--s4); background: var(--s4); } .s5 { fill: var(--s5); background: var(--s5); }
summary { cursor: pointer; color: var(--muted); } :focus-visible { outline: 2px solid var(--warm); }
.note { background: var(--panel); border-left: 4px solid var(--cold); padding: .5rem .9rem; }
@media print {
  :root { color-scheme: light; --bg: #ffffff; --fg: #000000; --muted: #444444; --line: #bbbbbb;
    --panel: #f6f8fa; --warm: #0b6e99; --cold: #b45309; --failed: #b42318; --good: #1a7f37;
    --other: #57606a; --s0: #0b6e99; --s1: #b45309; --s2: #6f42c1; --s3: #1a7f37; --s4: #b42369;
    --s5: #806600; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  html { font-size: 10px; } body { font-size: 1rem; } main, header { max-width: none; padding: 0; }
  nav { display: none; } .scroll, figure { overflow: visible; max-height: none; background: none; }
  svg { min-width: 0; } th, td { overflow-wrap: anywhere; } #checkpoints span.name { width: auto; }
  #reasons tbody th { min-width: 12.5rem; }
  .tall thead th { position: static; }
  thead { display: table-header-group; } tr, p, figure, dl.tiles div { break-inside: avoid; }
  h2, h3, ul.legend, p.muted { break-after: avoid; } details:not([open]) { display: none; }
}
"""


def document(title: str, *parts: Part) -> str:
    """The whole page: it loads nothing and runs nothing, and the browser is told so."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Safe(STYLE)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', *parts), lang='en')}"
