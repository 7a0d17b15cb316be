"""The site is made of the repository's own Markdown: one text, read on GitHub and here.

A page takes a section of another file with

    ```{section} README.md#install
    ```

which stands for that section, its heading and what is below it; without a fragment for the whole
file without its title. Links of pages and sections are turned into links of the site: a section to
the page that has taken it, a file that is no page to a download, a directory to its name.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from sphinx import application, errors

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WHOLE = {"README.md": "index", "CONTRIBUTING.md": "contributing"}
"""Pages that stand for a file when a link names none of its sections."""

LEAD = "lead"
"""The fragment for what stands between the title and the first section."""

_FENCE = re.compile(r"\s*(```+|~~~+)")
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*$")
_SECTION = re.compile(r"^```\{section\} ([^\s#]+)(?:#(\S+))?\n```$", re.MULTILINE)
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def slug(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    text = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return text.strip().replace(" ", "-")


def headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Line, level and words of each heading outside of code."""
    fence = ""
    for number, line in enumerate(text.splitlines()):
        if found := _FENCE.match(line):
            fence = "" if fence and line.strip() == fence else fence or found[1]
        elif not fence and (heading := _HEADING.match(line)):
            yield number, len(heading[1]), heading[2]


def section(text: str, fragment: str | None) -> str:
    """The section of a heading; without one everything below the title."""
    lines = text.splitlines()
    found = list(headings(text))
    if fragment == LEAD:
        return "\n".join(lines[found[0][0] + 1 : found[1][0]])
    if not fragment:
        return "\n".join(lines[found[0][0] + 1 :])
    for index, (start, level, words) in enumerate(found):
        if slug(words) == fragment:
            ends = (line for line, other, _ in found[index + 1 :] if other <= level)
            return "\n".join(lines[start : next(ends, len(lines))])
    raise errors.ExtensionError(f"no section #{fragment}")


def takers() -> dict[tuple[str, str], str]:
    """(file, fragment) -> the page that has taken it; a fragment of "" is the whole file."""
    pages: dict[tuple[str, str], str] = {(path, ""): page for path, page in WHOLE.items()}
    for page in sorted(DOCS.rglob("*.md")):
        name = page.relative_to(DOCS).with_suffix("").as_posix()
        for path, fragment in _SECTION.findall(page.read_text()):
            taken = section((ROOT / path).read_text(), fragment)
            if not fragment:
                pages.setdefault((path, ""), name)
            for _, _, words in headings(taken):
                pages.setdefault((path, slug(words)), name)
    return pages


class Links:
    """Turns links of one file into links of the page that shows it."""

    def __init__(self, pages: dict[tuple[str, str], str], *, origin: pathlib.Path, page: str):
        self._pages = pages
        self._origin = origin
        self._page = page
        self._folder = (DOCS / page).parent

    def turned(self, text: str) -> str:
        result, fence = [], ""
        for part in re.split(r"(^\s*(?:```+|~~~+).*$)", text, flags=re.MULTILINE):
            if found := _FENCE.match(part):
                fence = "" if fence and part.strip() == fence else fence or found[1]
            elif not fence:
                part = _LINK.sub(self._link, part)
            result.append(part)
        return "".join(result)

    def _link(self, link: re.Match[str]) -> str:
        words, target = link.groups()
        words = _LINK.sub(self._link, words)
        path, _, fragment = target.partition("#")
        if re.match(r"[a-z]+:", target) or (not path and self._is_page(self._origin)):
            return f"[{words}]({target})"
        file = (self._origin.parent / path).resolve() if path else self._origin
        if self._is_page(file) or not file.exists():
            return f"[{words}]({self._to(file, fragment)})"
        known = file.relative_to(ROOT).as_posix()
        taker = self._pages.get((known, fragment)) or self._pages.get((known, ""))
        if taker:
            return f"[{words}]({self._to(DOCS / f'{taker}.md', fragment)})"
        if file.is_dir():
            return f"{words} (`{known}`)"
        return f"[{words}]({self._to(file, '')})"

    @staticmethod
    def _is_page(file: pathlib.Path) -> bool:
        return file.suffix == ".md" and file.is_relative_to(DOCS)

    def _to(self, file: pathlib.Path, fragment: str) -> str:
        if file == (DOCS / f"{self._page}.md") and fragment:
            return f"#{fragment}"
        return os.path.relpath(file, self._folder) + (f"#{fragment}" if fragment else "")


def read(app: application.Sphinx, page: str, content: list[str]) -> None:
    """Sphinx has read a page: take in its sections, turn its links."""
    pages = takers()

    def taken(fence: re.Match[str]) -> str:
        path, fragment = fence.groups()
        app.env.note_dependency(str(ROOT / path))
        text = section((ROOT / path).read_text(), fragment)
        return Links(pages, origin=ROOT / path, page=page).turned(text)

    own = Links(pages, origin=DOCS / f"{page}.md", page=page).turned(content[0])
    content[0] = _SECTION.sub(taken, own)


def setup(app: application.Sphinx) -> dict[str, Any]:
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
