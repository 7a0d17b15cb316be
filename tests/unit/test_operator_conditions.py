"""Conditions, the patch of a status, and how values are spelled."""

import datetime

import hypothesis
import pytest
from hypothesis import strategies

from chrek import state
from chrek.operator import conditions

NOW = datetime.datetime(2026, 1, 29, 10, 5, tzinfo=datetime.UTC)
VALUES = strategies.recursive(
    strategies.integers() | strategies.text(max_size=3),
    lambda inner: strategies.lists(inner, max_size=3),
    max_leaves=5,
)
STATUSES = strategies.dictionaries(strategies.sampled_from("abcde"), VALUES)


def test_a_condition_keeps_its_time_while_its_status_stays():
    def at(minute):
        return NOW.replace(minute=minute)

    first = conditions.with_condition({}, "Ready", value=False, reason="A", message="", now=at(1))
    second = conditions.with_condition(
        first, "Ready", value=False, reason="B", message="", now=at(2)
    )
    third = conditions.with_condition(
        second, "Ready", value=True, reason="C", message="", now=at(3)
    )
    times = [c["conditions"][0]["lastTransitionTime"] for c in (first, second, third)]
    assert times == ["2026-01-29T10:01:00Z", "2026-01-29T10:01:00Z", "2026-01-29T10:03:00Z"]


def test_one_condition_of_each_type():
    made = {}
    for type_ in ("Suspect", "Ready", "Suspect"):
        made = conditions.with_condition(made, type_, value=True, reason="", message="", now=NOW)
    assert [c["type"] for c in made["conditions"]] == ["Ready", "Suspect"]
    made = conditions.without_condition(made, "Ready")
    assert conditions.get(made, "Ready") is None
    assert conditions.get(made, "Suspect")["status"] == "True"


def test_the_merge_patch_of_a_status():
    assert conditions.difference({"a": 1, "b": 2}, {"a": 1, "c": 3}) == {"b": None, "c": 3}


@hypothesis.given(STATUSES, STATUSES)
def test_the_merge_patch_makes_the_new_status(old, new):
    assert state.merged(old, conditions.difference(old, new)) == new
    assert conditions.difference(new, new) == {}


@pytest.mark.parametrize("text", [None, "", "soon", "2026-13-01T00:00:00Z"])
def test_what_is_no_time(text):
    assert conditions.parse(text) is None


@pytest.mark.parametrize(
    "text", ["2026-01-29T10:05:00Z", "2026-01-29T11:05:00+01:00", "2026-01-29T10:05:00"]
)
def test_times_can_be_compared(text):
    assert conditions.parse(text) == NOW


def test_a_time_is_read_as_it_is_written():
    assert conditions.parse(conditions.timestamp(NOW)) == NOW
