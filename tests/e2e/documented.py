"""The commands of README, CONTRIBUTING, the chart's page, docs and examples: tests type them.

A command stands in a block of a shell, or in a code span that begins with one of our programs and
has an argument. A test asks for what a page prints and runs that, so that whoever changes a page
changes the test. Which test runs which command is in `claims`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from showcase import cluster, commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "charts/chrek/README.md",
    *sorted(
        path.relative_to(ROOT).as_posix()
        for folder in ("docs", "examples")
        for path in (ROOT / folder).rglob("*.md")
    ),
)
SHELLS = ("bash", "sh", "shell", "console")
PROGRAMS = ("chrek", "kubectl", "helm", "make", "pip", "uv", "cd", "source")
PLACEHOLDER = "…"

_FENCE = re.compile(r"\s*(```+)\s*(\S*)")
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*$")
_COMMENT = re.compile(r"(?:^|\s{2,})# .*$")
_SECTION = re.compile(r"[\w./-]+\.md#[\w-]+")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        page: path of the page.
        section: its heading, as links write it.
        line: where it begins.
        text: as printed, without comments and prompt.
        output: the lines below it, in a block that shows a terminal.
        inline: whether it is a code span.
    """

    page: str
    section: str
    line: int
    text: str
    output: tuple[str, ...] = ()
    inline: bool = False

    @property
    def flat(self) -> str:
        """On one line."""
        return " ".join(self.text.replace("\\\n", " ").split())

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.flat}"


@dataclasses.dataclass(frozen=True)
class _Part:
    """A block of code, or a paragraph between blocks."""

    section: str
    line: int
    language: str | None
    lines: list[str]


def read(page: str) -> list[Command]:
    """All commands of a page, and code spans that only name a program's subcommand."""
    found: list[Command] = []
    for part in _parts((ROOT / page).read_text()):
        if part.language == "console":
            found += _terminal(page, part)
        elif part.language in SHELLS:
            found += _script(page, part)
        elif part.language is None:
            found += _spans(page, part)
    return found


def everything() -> list[Command]:
    return [command for page in PAGES for command in read(page)]


def wanted() -> list[Command]:
    """The commands that a test has to run: a span that only names a subcommand is none."""
    return [command for command in everything() if not command.inline or _asks(command.flat)]


def find(key: str) -> list[Command]:
    """The commands that a key of `claims` means; there is one at least."""
    found = [command for command in wanted() if covers(key, command)]
    assert found, f"no page has {key}"
    return found


def one(key: str) -> Command:
    """The command of a key. Where it stands several times, it is the same each time."""
    found = find(key)
    assert len({command.flat for command in found}) == 1, f"{key}: {', '.join(map(str, found))}"
    return next((command for command in found if command.output), found[0])


def covers(key: str, command: Command) -> bool:
    """Whether a key of `claims` means this command.

    Keys are `page#section`, for all that its blocks have, or a command's text, wherever it stands;
    what ends with `*` means all that begin so.
    """
    if _SECTION.fullmatch(key):
        return not command.inline and key == f"{command.page}#{command.section}"
    return command.flat == key or (key.endswith("*") and command.flat.startswith(key[:-1]))


def _parts(text: str) -> Iterator[_Part]:
    heading, begin, language = "", 1, None
    kept: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        title = _HEADING.match(line) if language is None else None
        if not (fence or title or (language is None and not line.strip())):
            kept.append(line)
            continue
        yield _Part(heading, begin, language, kept)
        kept, begin = [], number + 1
        if fence:
            language = (fence[2] or "none") if language is None else None
        elif title:
            heading = slug(title[1])
    yield _Part(heading, begin, language, kept)


def slug(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def _script(page: str, part: _Part) -> Iterator[Command]:
    kept: list[str] = []
    begin = part.line
    for number, line in enumerate(part.lines, part.line):
        bare = _COMMENT.sub("", line).rstrip()
        begin = begin if kept else number
        kept += [bare] if bare else []
        if kept and _whole("\n".join(kept)):
            yield Command(page, part.section, begin, "\n".join(kept))
            kept = []
    assert not kept, f"{page}:{begin}: a command without its end: {kept}"


def _terminal(page: str, part: _Part) -> Iterator[Command]:
    lines = list(enumerate(part.lines, part.line))
    starts = [index for index, (_, line) in enumerate(lines) if line.startswith("$ ")]
    for start, end in itertools.pairwise([*starts, len(lines)]):
        number, line = lines[start]
        output = tuple(text for _, text in lines[start + 1 : end])
        yield Command(page, part.section, number, _COMMENT.sub("", line[2:]).rstrip(), output)


def _spans(page: str, part: _Part) -> Iterator[Command]:
    text = "\n".join(part.lines)
    for span in _SPAN.finditer(text):
        line = part.line + text.count("\n", 0, span.start())
        words = " ".join(span[1].replace("\\|", "|").split())
        first, _, rest = words.removeprefix("sudo ").partition(" ")
        if rest and (first in PROGRAMS or re.fullmatch(r"scripts/[a-z-]+", first)):
            yield Command(page, part.section, line, words, inline=True)


def _asks(words: str) -> bool:
    """Whether a span has an argument: `chrek list` and `helm test` only name something."""
    first, *rest = words.removeprefix("sudo ").split()
    return len(rest) > (first in ("chrek", "kubectl", "helm")) + (rest[0] == "chrek")


def _whole(text: str) -> bool:
    words = text.split()
    return not (
        text.endswith("\\")
        or text.count('"') % 2
        or text.count("'") % 2
        or text.count("(") > text.count(")")
        or words.count("do") > words.count("done")
    )


@dataclasses.dataclass(frozen=True)
class Desk:
    """A shell as a reader of the pages has it, in a folder that has what the repository has.

    Attributes:
        folder: where commands run.
        fill: what stands for a word of the pages, such as NAME or `my-team`.
        environment: further variables.
        within: a program that enters where commands run, and takes one.
    """

    folder: Path
    fill: Mapping[str, str] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    within: tuple[str, ...] = ()

    @staticmethod
    def of(live: cluster.Cluster, namespace: str, folder: Path, **fill: str) -> Desk:
        """A desk in a new folder, with a cluster; its context names a namespace."""
        tools = os.path.dirname(commands.find("kubectl"))
        kubeconfig = folder / ".kubeconfig"
        made = Desk.made(folder, tools=tools, KUBECONFIG=os.fspath(kubeconfig))
        kubeconfig.write_bytes(live.kubeconfig.read_bytes())
        kubeconfig.chmod(0o600)  # Helm warns of one that others can read.
        made.type(f"kubectl config set-context --current --namespace={namespace}")
        return made.filled(**{"my-team": namespace, **fill})

    @staticmethod
    def made(folder: Path, *, tools: str = "", **environment: str) -> Desk:
        """A desk in a new folder.

        Args:
            folder: what does not exist yet.
            tools: where further programs are.
            environment: further variables.
        """
        own = folder / ".bin"
        own.mkdir(parents=True)
        programs = {
            "chrek": f"{shlex.quote(sys.executable)} -c 'from chrek.cli import main; main()'"
        }
        if not shutil.which("sudo"):
            programs["sudo"] = ""  # A machine without it has one user, who is root.
        for name, line in programs.items():
            (own / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
            (own / name).chmod(0o755)
        for path in ("charts", "docs", "examples", "scripts"):
            (folder / path).symlink_to(ROOT / path)
        path = ":".join([os.fspath(own), *filter(None, [tools]), os.environ["PATH"]])
        return Desk(folder, {}, {"PATH": path, **environment})

    def filled(self, **more: str) -> Desk:
        """This desk with further words filled in."""
        return dataclasses.replace(self, fill={**self.fill, **more})

    def line(self, command: Command | str) -> str:
        """The command as it is typed."""
        text = command if isinstance(command, str) else command.text
        if self.fill:
            keys = sorted(self.fill, key=len, reverse=True)
            words = "|".join(re.escape(key) for key in keys)
            text = re.sub(rf"(?<!\w)(?:{words})(?!\w)", lambda hit: self.fill[hit[0]], text)
        assert PLACEHOLDER not in text, f"not filled in: {text}"
        return text

    def argv(self, *commands: Command | str) -> list[str]:
        """The shell that types commands."""
        script = "\n".join(map(self.line, commands))
        return [*self.within, "bash", "-euo", "pipefail", "-c", script]

    def run(
        self, *commands: Command | str, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Type commands one after the other in one shell, which ends at the first that fails."""
        return subprocess.run(
            self.argv(*commands),
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def type(self, *commands: Command | str, timeout: float = 120, code: int = 0) -> str:
        """The same; returns what they say on stdout and stderr.

        Args:
            commands: all succeed.
            timeout: in seconds.
            code: of the last one, when that is no success.
        """
        done = self.run(*commands, timeout=timeout)
        said = done.stdout + done.stderr
        assert done.returncode == code, f"{commands[-1]}: exit code {done.returncode}\n{said}"
        return said


def assert_shown(command: Command, said: str, varying: Mapping[str, str]) -> None:
    """What a page shows below a command is in what the command says, in this order.

    Args:
        command: with its output.
        said: by the command.
        varying: pattern -> pattern of what stands there today, for ages, names, counts.
    """
    assert command.output, f"{command}: the page shows nothing"
    rest = said.splitlines()
    for line in command.output:
        if line.strip() == PLACEHOLDER:
            continue
        pattern = _pattern(line, varying)
        index = next((n for n, text in enumerate(rest) if re.fullmatch(pattern, text)), None)
        assert index is not None, f"{command}\nnot said: {line}\n({pattern})\nbut:\n{said}"
        rest = rest[index + 1 :]


def _pattern(line: str, varying: Mapping[str, str]) -> str:
    words = "|".join(f"(?:{pattern})" for pattern in varying)
    pieces = re.split(f"({words})", line) if varying else [line]
    made = ""
    for index, piece in enumerate(pieces):
        if index % 2:
            made += next(new for old, new in varying.items() if re.fullmatch(old, piece))
        else:
            escaped = re.escape(piece).replace(re.escape(PLACEHOLDER), ".*")
            made += re.sub(r"(?:\\ )+", r"\\s+", escaped)
    return made + r"\s*"
