"""Whatever stands in a store, reading it ends in a result or a ChrekError, in bounded memory."""

import base64
import sys

import pytest

from fuzz import runner

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.version_info >= (3, 14), reason="optional: no atheris for this Python"),
]
SECONDS = 50
"""Of all targets; with the starts of their processes it is a minute."""
RUNS = 1_000_000


@pytest.mark.parametrize("name", runner.NAMES)
def test_for_a_minute(name):
    outcome = runner.fuzz(name, seconds=SECONDS / len(runner.NAMES))
    assert outcome.found is None, str(outcome)
    assert outcome.runs > 100


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", runner.NAMES)
def test_a_million_inputs(name):
    runs = RUNS // len(runner.NAMES)
    outcome = runner.fuzz(name, runs=runs)
    assert outcome.found is None, str(outcome)
    assert outcome.runs >= runs


def test_a_finding_is_seen():
    data = b"canary of the runner"
    text = base64.b64encode(data).decode()
    for outcome in (runner.fuzz("canary", runs=10), runner.replay("canary", data)):
        assert outcome.found == data
        assert f"FOUND {text}" in str(outcome)
        assert "ValueError: a finding" in str(outcome)
    assert runner.replay("canary", b"other").found is None
    assert runner.fuzz("unknown", runs=1).found == b""
