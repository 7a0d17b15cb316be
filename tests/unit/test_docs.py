"""The documentation: it builds without a warning, is complete, and its links lead somewhere."""

import pathlib
import re
import subprocess
import sys

import pytest

from chrek import cli, names

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "charts/chrek/README.md"]
PAGES += sorted(DOCS.rglob("*.md"))

OF_README_ALONE = ("Before you rely on it", "More")
"""What sums up pages of the site, and leads to them."""

sys.path.insert(0, str(DOCS / "_ext"))
import repository  # noqa: E402  (the path above comes first)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `scripts/docs` builds it: every warning is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    command += ["-d", str(out / ".doctrees"), str(DOCS), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        pytest.fail(f"scripts/docs:\n{done.stdout}{done.stderr}", pytrace=False)
    return out


def headings(path):
    return [words for _, _, words in repository.headings(path.read_text())]


def test_the_script_builds_as_this_test_does():
    words = (ROOT / "scripts" / "docs").read_text()
    assert " -m sphinx -W --keep-going -n -q -b html " in words
    assert (ROOT / "scripts" / "docs").stat().st_mode & 0o111


def test_every_page_is_built(site):
    pages = {p.relative_to(DOCS).with_suffix(".html").as_posix() for p in DOCS.rglob("*.md")}
    built = {p.relative_to(site).as_posix() for p in site.rglob("*.html")}
    assert pages <= built, "no page is left out"


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("index", "makes LLM inference pods on Kubernetes start warm"),
        ("guides/start", "The agent is privileged; workload pods are not."),
        ("guides/how-it-works", 'class="how"'),
        ("guides/stores", "Moving checkpoints"),
        ("guides/limits", "Not verified"),
        ("reference/chart", "agent.startupTaint"),
        ("reference/words", "identity hash"),
    ],
)
def test_a_page_has_what_it_takes_from_the_repository(site, page, words):
    text = (site / f"{page}.html").read_text()
    assert words in text
    assert "{section}" not in text


def test_links_of_a_section_lead_to_pages(site):
    start = (site / "guides" / "start.html").read_text()
    assert 'href="stores.html"' in start
    assert 'href="../gpu.html"' in start
    assert 'href="#gpus"' in start, "a section that this page has"
    chart = (site / "reference" / "chart.html").read_text()
    assert 'href="../guides/start.html#install"' in chart, "a section that another page has"
    assert "README.md#" not in start + chart


def test_every_section_of_the_readme_has_a_page():
    taken = repository.takers()
    sections = [w for _, level, w in repository.headings(PAGES[0].read_text()) if level == 2]
    missing = {
        words
        for words in sections
        if words not in OF_README_ALONE and ("README.md", repository.slug(words)) not in taken
    }
    assert not missing


def test_every_reason_has_an_entry():
    found = headings(DOCS / "troubleshooting.md")
    assert found[1:] == [str(reason) for reason in names.Reason]


def test_every_command_has_a_section():
    found = headings(DOCS / "reference" / "cli.md")
    assert found[1:] == [f"chrek {name}" for name in sorted(cli._COMMANDS)]


def test_every_kind_has_its_fields():
    text = (DOCS / "reference" / "crds.md").read_text()
    for words in (names.CHECKPOINT_KIND, names.GRAPH_KIND, "identity.model", "status of a"):
        assert words in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows), "three cells each"


def test_generated_pages_are_fresh():
    command = [sys.executable, str(ROOT / "scripts" / "generate"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout + done.stderr


def test_help_does_not_depend_on_the_terminal(monkeypatch):
    import sitepages

    wide = sitepages.commands("x")
    monkeypatch.setenv("COLUMNS", "40")
    assert sitepages.commands("x") == wide


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    broken = []
    for line in outside_code(page.read_text()):
        for target in re.findall(r"\]\(([^()\s]+)\)", line):
            path, _, fragment = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (fragment and not has(file, fragment, page)):
                broken.append(target)
    assert not broken


def outside_code(text):
    fence = ""
    for line in text.splitlines():
        if found := re.match(r"\s*(```+|~~~+)", line):
            fence = "" if fence and line.strip() == fence else fence or found[1]
        elif not fence:
            yield line


def has(file, fragment, page):
    slugs = {repository.slug(words) for words in headings(file)}
    if file.is_relative_to(DOCS):
        # A page of the site has the sections that it takes as well.
        name = file.relative_to(DOCS).with_suffix("").as_posix()
        slugs |= {found for (_, found), taker in repository.takers().items() if taker == name}
    return fragment in slugs


@pytest.mark.parametrize(
    ("heading", "fragment"),
    [
        ("Exit codes of `chrek`", "exit-codes-of-chrek"),
        ("What is refused, and what to do", "what-is-refused-and-what-to-do"),
        ("DynamoCheckpoint", "dynamocheckpoint"),
    ],
)
def test_a_slug_is_that_of_github(heading, fragment):
    assert repository.slug(heading) == fragment


TEXT = """# Title
Lead.
## One
[a](#two) [b](../README.md#install) [c](LICENSE)
```bash
# no heading
[kept](#two)
```
### Deeper
## Two
End.
"""


def test_a_section_ends_with_the_next_of_its_level():
    assert repository.section(TEXT, "one").splitlines()[-1] == "### Deeper"
    assert repository.section(TEXT, "two") == "## Two\nEnd."
    assert repository.section(TEXT, "lead") == "Lead."
    assert repository.section(TEXT, None).startswith("Lead.\n## One")


def test_links_follow_the_text():
    taken = {("README.md", "two"): "guides/b", ("README.md", "one"): "guides/a"}
    links = repository.Links(taken, origin=ROOT / "README.md", page="guides/a")
    assert links.turned("[x](#two)") == "[x](b.md#two)"
    assert links.turned("[x](#one)") == "[x](#one)"
    assert links.turned("[x](docs/gpu.md#direct)") == "[x](../gpu.md#direct)"
    assert links.turned("[x](LICENSE)") == "[x](../../LICENSE)"
    assert links.turned("[x](examples/llama)") == "x (`examples/llama`)"
    assert links.turned("[x](https://criu.org)") == "[x](https://criu.org)"
    assert links.turned("```text\n[x](#two)\n```") == "```text\n[x](#two)\n```"
