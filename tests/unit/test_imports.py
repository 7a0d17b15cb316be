"""What a program loads: the agent stays small, the command starts fast."""

import importlib.util
import subprocess
import sys

import pytest

HEAVY = {"kubernetes", "jsonschema", "click", "cryptography"}


def loaded(statement):
    """Top-level packages in sys.modules after a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import chrek.agent.main", HEAVY),
        ("import chrek.operator.main", HEAVY - {"cryptography"}),
        ("import chrek.cli", HEAVY - {"click"} | {"aiohttp", "google", "yaml", "msgspec"}),
        ("import chrek.cli.hash_command", HEAVY - {"click"} | {"aiohttp", "google"}),
        ("import chrek.cli.checkpoint_command", HEAVY - {"click"} | {"aiohttp", "google"}),
    ],
)
def test_nothing_heavy_is_loaded(statement, forbidden):
    assert loaded(statement) & forbidden == set()


def helped(*arguments):
    """What `chrek ... --help` loads."""
    return loaded(
        "import chrek.cli\n"
        f"try:\n    chrek.cli.main({[*arguments, '--help']})\n"
        "except SystemExit as end:\n    assert not end.code\n"
    )


def test_help_loads_no_command():
    names = helped()
    assert "click" in names
    assert names & (HEAVY - {"click"} | {"aiohttp", "yaml", "msgspec"}) == set()


@pytest.mark.parametrize(
    "name",
    [
        *("agent", "bench", "checkpoint", "completion", "copy", "diff", "doctor", "dump"),
        *("explain", "export"),
        *("hash", "import", "list", "operator", "prune", "report"),
        *("restore", "retry", "run", "show", "verify"),
    ],
)
def test_help_of_a_command_loads_nothing_heavy(name):
    assert helped(name) & (HEAVY - {"click"} | {"aiohttp"}) == set()


def test_forbidden_packages_exist():
    """A misspelled name in the sets above would never be found loaded."""
    assert all(importlib.util.find_spec(name) for name in HEAVY)
