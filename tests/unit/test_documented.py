"""Every command of the pages is run by a test, and every option that they print is there."""

import ast
import json
import pathlib
import re
import shlex
import sys

import click
import pytest

from chrek import cli
from e2e import claims, documented

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
COMMANDS = documented.wanted()
SPANS = documented.everything()
SCHEMA = json.loads((ROOT / "charts/chrek/values.schema.json").read_text())


def test_the_pages_are_read():
    assert len(COMMANDS) > 120
    assert {command.page for command in COMMANDS} > {"README.md", "docs/runbooks.md"}


@pytest.mark.parametrize("page", documented.PAGES)
def test_every_command_of_a_page_has_a_claim(page):
    left = [
        str(command)
        for command in COMMANDS
        if command.page == page
        and not any(documented.covers(key, command) for key in claims.CLAIMS)
    ]
    assert not left, "write into tests/e2e/claims.py which test runs it"


@pytest.mark.parametrize("key", claims.CLAIMS)
def test_every_claim_is_of_a_command_that_a_page_has(key):
    assert any(documented.covers(key, command) for command in COMMANDS)


RUN = {key: test for key, test in claims.CLAIMS.items() if isinstance(test, str)}


@pytest.mark.parametrize("key", RUN)
def test_every_claim_is_of_a_test_that_takes_the_command(key):
    path, _, name = RUN[key].partition("::")
    tree = ast.parse((TESTS / path).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert key in texts, f"{path} asks `documented` for another key"


# What a shell makes of a page


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# T\n```bash\na b # no\nc \\\n  d   # comment\n```\n", [("t", "a b # no"), ("t", "c d")]),
        ("## U v\n```sh\n# only this\nx=\"y\n  z\"\n```\n", [("u-v", 'x="y z"')]),
        ("```bash\nh=$(a \\\n  b)\nc <<<\"$h\"\n```\n", [("", "h=$(a b)"), ("", 'c <<<"$h"')]),
        ("```bash\nfor i in a b; do\n  c $i\ndone\n```\n", [("", "for i in a b; do c $i done")]),
        ("```console\n$ a b   # there\nsaid\n…\n$ c\n```\n", [("", "a b"), ("", "c")]),
        ("```yaml\nchrek: list x\n```\n", []),
        ("x `chrek retry\nNAME`, `chrek list`, `helm test`, `a b`\n", [("", "chrek retry NAME")]),
        ("| `kubectl logs x \\| grep y` | `sudo chrek dump N` |\n",
         [("", "kubectl logs x | grep y"), ("", "sudo chrek dump N")]),
    ],
)  # fmt: skip
def test_what_is_a_command(tmp_path, monkeypatch, text, found):
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr(documented, "ROOT", tmp_path)
    monkeypatch.setattr(documented, "PAGES", ("page.md",))
    assert [(command.section, command.flat) for command in documented.wanted()] == found


def test_what_a_terminal_shows(tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text("```console\n$ a\nage 5m, size 3\n…\nall 12 well\n$ b\n```\n")
    monkeypatch.setattr(documented, "ROOT", tmp_path)
    first, second = documented.read("page.md")
    assert (first.output, second.output) == (("age 5m, size 3", "…", "all 12 well"), ())
    documented.assert_shown(first, "x\nage  7m,  size 3\ny\nall 9 well\n", {r"\d+": r"\d+"})
    for said in ("age 7m, size 3\nall well\n", "all 9 well\nage 7m, size 3\n", "age 7m\n"):
        with pytest.raises(AssertionError, match="not said"):
            documented.assert_shown(first, said, {r"\d+": r"\d+"})


def test_what_is_filled_in(tmp_path):
    desk = documented.Desk(tmp_path).filled(POD="p", NAME="n", **{"my-team": "t", "/mnt": "/m"})
    line = "x POD -n POD_NAMESPACE NAME my-team/NAME /mnt/x AGENT_POD NAMESPACE"
    assert desk.line(line) == "x p -n POD_NAMESPACE n t/n /m/x AGENT_POD NAMESPACE"
    with pytest.raises(AssertionError, match="not filled in"):
        desk.line("chrek copy …")


# What is printed is there


def calls(text):
    """The argument lists of `chrek` in a line of a shell."""
    text = re.sub(r"[\[\]]|\.\.\.", "", text)
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="|;&()<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words, lines = [], []
    for word in [*lexer, ";"]:
        if word and set(word) <= set("|;&()<>"):
            lines, words = [*lines, words], []
        else:
            words.append(word)
    for line in lines:
        for before in (["sudo"], ["kubectl"]):
            line = line[1:] if line[:2] == [*before, "chrek"] else line
        if line[:2] == ["kubectl", "exec"] and "--" in line:
            line = line[line.index("--") + 1 :]
        if line[:1] == ["chrek"] and line[1:]:
            yield line[1:]


def problem(arguments, *, whole):
    """Why click would not take them; empty when it would.

    Args:
        arguments: of `chrek`.
        whole: whether what is required has to be there.
    """
    name, *rest = arguments
    if name == "COMMAND":
        return ""
    if name.startswith("-"):
        return "" if name in ("--help", "--version") else f"no option {name}"
    command = cli.main.get_command(click.Context(cli.main), name)
    if command is None:
        return f"no command {name}"
    context = click.Context(command, info_name=name)
    if not whole and rest and rest[-1].startswith("--"):
        # Only named; one that takes no value is content with an argument.
        rest.append(documented.PLACEHOLDER)
    try:
        given, left, _ = command.make_parser(context).parse_args(list(rest))
    except click.UsageError as err:
        return err.format_message()
    if left and left != [documented.PLACEHOLDER]:
        return f"too many arguments: {left}"
    # What was not given is there too, as a value of click's own.
    given = {key: value for key, value in given.items() if isinstance(value, (str, list, tuple))}
    for one in command.params:
        value = given.get(one.name, documented.PLACEHOLDER)
        if isinstance(one.type, click.Choice) and value not in (
            *one.type.choices,
            documented.PLACEHOLDER,
        ):
            return f"{one.name}: {value}"
    required = [
        one.name for one in command.params if isinstance(one, click.Argument) and one.required
    ]
    missing = [name for name in required if not given.get(name)]
    if documented.PLACEHOLDER not in rest and missing and (whole or missing != required):
        return f"without {', '.join(missing)}"
    return ""


@pytest.mark.parametrize("page", documented.PAGES)
def test_every_call_of_chrek_is_one_that_it_takes(page):
    wrong = {
        str(command): found
        for command in SPANS
        if command.page == page
        for arguments in calls(command.text)
        if (found := problem(arguments, whole=not command.inline))
    }
    # Examples of `--help`, which the page of commands has.
    for line in re.findall(r"(?m)^ +\$ ((?:.*\\\n)*.*)$", (ROOT / page).read_text()):
        for arguments in calls(line):
            if found := problem(arguments, whole=True):
                wrong[line] = found
    assert not wrong


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("chrek list -A", ""),
        ("chrek lst", "no command lst"),
        ("chrek list --everything", "No such option '--everything'"),
        ("chrek diff", "without subject"),
        ("chrek explain", "without reference"),
        ("chrek import … --checkpoint", "Option '--checkpoint' requires an argument."),
        ("chrek list -o html", "output: html"),
        ("a | chrek doctor --manifests", "Option '--manifests' requires an argument."),
        ("kubectl exec x -- chrek prune --rekeys", "No such option '--rekeys'"),
        ("sudo chrek dump web x", "too many arguments: ['x']"),
    ],
)
def test_what_chrek_would_not_take(text, found):
    (arguments,) = calls(text)
    assert problem(arguments, whole=True).split(".")[0].split("?")[0].strip() == found.strip(".")


def values(text):
    return re.findall(r"--set(?:-json|-string)?[= ]['\"]?([\w.-]+)=", text)


def known(path):
    """Whether the chart's schema has a value."""
    at = SCHEMA
    for key in path.split("."):
        if "$ref" in at:
            at = SCHEMA["definitions"][at["$ref"].rpartition("/")[2]]
        more = at.get("properties", {})
        if key not in more:
            # An object of Kubernetes' own, such as labels, or one of several forms.
            return at.get("additionalProperties", True) is not False and at is not SCHEMA
        at = more[key]
    return True


@pytest.mark.parametrize("page", documented.PAGES)
def test_every_value_that_is_set_is_one_of_the_chart(page):
    text = (ROOT / page).read_text()
    assert not [path for path in values(text) if not known(path)]


def test_a_value_that_is_not_there():
    assert values("helm x --set storage.pvc.size=1Gi --set-json=a.b='1'") == [
        "storage.pvc.size",
        "a.b",
    ]
    assert known("storage.pvc.size")
    assert not known("storage.pvc.sizes")
    assert not known("stores.pvc.size")


@pytest.mark.parametrize("page", documented.PAGES)
def test_every_script_is_there(page):
    for name in set(re.findall(r"(?<![\w/.-])scripts/[a-z-]+", (ROOT / page).read_text())):
        assert (ROOT / name).exists(), name


def test_options_of_scripts_are_known():
    for command in COMMANDS:
        if found := re.match(r"scripts/([a-z-]+) (.*)", command.flat):
            folders = (ROOT / "scripts" / found[1].replace("-", "")).glob("*.py")
            files = [ROOT / "scripts" / found[1], *folders]
            text = "".join(path.read_text() for path in files)
            for option in re.findall(r"--[a-z-]+", found[2]):
                assert option in text, command


# What needs no cluster


@pytest.fixture
def desk(tmp_path):
    return documented.Desk.made(tmp_path / "desk", PYTHONPATH=str(ROOT / "src"))


def test_the_hash_of_a_file(desk):
    """Of the first object that README shows."""
    text = (ROOT / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    (desk.folder / "my-llm.yaml").write_text(text)
    said = desk.filled(FILE="my-llm.yaml").type(documented.one("chrek hash FILE"))
    assert said == "5941a4cb3c363457  my-llm/VllmWorker\n"


def test_completion_of_a_shell(desk):
    command = documented.one("source <(chrek completion bash)")
    assert " chrek\n" in desk.type(command, "complete -p")


def test_the_help_of_a_command(desk):
    assert "-A, --all-namespaces" in desk.filled(COMMAND="list").type(
        documented.one("chrek COMMAND --help")
    )


def test_make(desk):
    (desk.folder / "src").mkdir()
    line = desk.line(documented.one("make -C src/c"))
    (desk.folder / "src/c").symlink_to(ROOT / "src/c")
    assert "chrek-init" in desk.type(f"{line} --dry-run --always-make")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="optional: no atheris for this Python")
def test_fuzzing(desk):
    (desk.folder / "tests").symlink_to(TESTS)
    line = documented.one("cd tests && python -m fuzz TARGET --seconds 60")
    assert "manifest" in desk.filled(TARGET="manifest", **{"60": "1"}).type(line)
