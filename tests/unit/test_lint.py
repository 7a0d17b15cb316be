"""Linters are tests, so that one command checks everything."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONGEST = 400
GENERATED = re.compile(r"_pb2\.pyi?$")

# Split so that this file does not contain what it looks for. Builds take packages from where the
# machine is configured to take them.
REGISTRY_HOSTS = [
    *("pypi" + ".org", "python" + "hosted.org", "registry." + "npmjs.org", "crates" + ".io"),
    *("proxy." + "golang.org", "sum." + "golang.org", "deb." + "debian.org"),
    *("archive." + "ubuntu.com", "security." + "debian.org", "goproxy" + ".io"),
]


def tracked():
    """Files that git knows or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def text(path):
    return path.read_text(errors="replace")


def is_shell(path):
    return path.suffix == ".sh" or re.match(r"#!.*\b(sh|bash|dash)\b", text(path)[:40])


def passes(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{pathlib.Path(command[0]).name}:\n{done.stdout}{done.stderr}", pytrace=False)


def tool(name):
    """A program that the development lock installs beside Python."""
    return str(pathlib.Path(sys.executable).parent / name)


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_ruff(arguments):
    passes(tool("ruff"), *arguments, "--no-cache", ".")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--strict"],
        ["--strict", "scripts/devcluster", "scripts/showcase"],
        ["--strict", "--scripts-are-modules", "scripts/build", "scripts/test"],
    ],
    ids=["src", "scripts", "programs"],
)
def test_mypy(arguments):
    passes(tool("mypy"), *arguments)


def test_shellcheck():
    scripts = [str(path) for path in tracked() if is_shell(path)]
    assert scripts
    passes(tool("shellcheck"), "--shell=bash", "--severity=style", *scripts)


def test_spelling():
    unread = ("go.sum", "LICENSE")
    paths = [p for p in tracked() if p.name not in unread and p.suffix not in (".lock", ".json")]
    passes(tool("codespell"), *(str(path.relative_to(ROOT)) for path in paths))


def test_no_module_is_long():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "src").rglob("*")
        if path.suffix in (".py", ".c", ".h") and not GENERATED.search(path.name)
        if (lines := len(text(path).splitlines())) > LONGEST
    }
    assert not long, f"split by noun: {long}"


def test_no_registry_is_named():
    named = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in tracked()
        for host in REGISTRY_HOSTS
        if host in text(path)
    ]
    assert not named, "\n".join(named)


@pytest.mark.parametrize(
    "name", ["test", "build", "cluster", "demo", "criu-bundle", "vllm-check", "gpu-check"]
)
def test_scripts_are_executable(name):
    assert (ROOT / "scripts" / name).stat().st_mode & 0o111


def test_versions_agree():
    version = re.search(r'__version__ = "([^"]+)"', text(ROOT / "src/chrek/__init__.py"))[1]
    assert f'VERSION = "{version}"' in text(ROOT / "scripts/build")
    assert text(ROOT / "Dockerfile").count(f"ARG VERSION={version}\n") == 3
    chart = text(ROOT / "charts/chrek/Chart.yaml")
    assert re.search(rf'^appVersion: "?{re.escape(version)}"?$', chart, re.MULTILINE)


def test_locks_hold_the_pinned_versions():
    """After a change of pyproject.toml run the commands of CONTRIBUTING.md."""
    pins = re.findall(r'^    "([\w.-]+)==([\w.]+)",', text(ROOT / "pyproject.toml"), re.MULTILINE)
    assert len(pins) > 20
    lock = text(ROOT / "requirements-dev.lock")
    runtime = text(ROOT / "requirements.lock")
    for name, version in pins:
        line = f"\n{name.lower().replace('_', '-')}=={version} "
        assert line in f"\n{lock}", f"requirements-dev.lock lacks {name}=={version}"
    shared = set(re.findall(r"^([\w.-]+==[^ ]+)", runtime, re.MULTILINE))
    assert shared <= set(re.findall(r"^([\w.-]+==[^ ]+)", lock, re.MULTILINE))
