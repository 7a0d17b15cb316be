"""Every error has its own exit code and reason, and the README lists them."""

import collections
import inspect
import pickle

import pytest

from chrek import errors, names


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


CLASSES = [errors.ChrekError, *subclasses(errors.ChrekError)]


def test_all_errors_live_in_one_module():
    here = {kind for _, kind in inspect.getmembers(errors, inspect.isclass)}
    assert set(CLASSES) <= here


def test_exit_codes_are_unique_and_ours():
    codes = collections.Counter(kind.exit_code for kind in CLASSES)
    assert max(codes.values()) == 1, codes
    assert all(3 <= code <= 99 for code in codes)


def test_reasons_are_unique_and_declared():
    reasons = collections.Counter(str(kind.reason) for kind in CLASSES)
    assert max(reasons.values()) == 1, reasons
    assert set(reasons) <= {str(reason) for reason in names.Reason}


@pytest.mark.parametrize("kind", CLASSES)
def test_the_reference_lists_the_exit_code(kind, root):
    text = (root / "docs" / "reference" / "exit-codes.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    row = next((r for r in rows if r.startswith(f"| {kind.exit_code} |")), "")
    assert str(kind.reason) in row, f"no row for exit code {kind.exit_code}, {kind.reason}"


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_says_what_and_what_to_do(kind):
    err = kind("store: /x is full", hint="delete something", reason="Other")
    assert str(err) == "store: /x is full (delete something)"
    assert (err.message, err.hint, err.reason) == ("store: /x is full", "delete something", "Other")
    assert kind("x").reason == kind.reason
    assert inspect.getdoc(kind)


def test_the_log_of_a_tool_is_truncated_at_its_start():
    err = errors.ToolError("x", log="a" * 10_000 + "the end")
    assert len(err.log) == 4096
    assert err.log.endswith("the end")


def test_errors_survive_pickling():
    """Thread and process pools hand them on."""
    assert pickle.loads(pickle.dumps(errors.StoreError("x"))).message == "x"  # noqa: S301 - ours
