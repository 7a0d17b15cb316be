"""Which pods are named; how they are captured is in test_agent_captures.py."""

import msgspec

from chrek.agent import namings, objects
from fakes import projected


def named(*uids, **changed):
    capture = objects.Capture("aaaa", "Creating", "", frozenset(uids))
    return projected.checkpoint(captures=(capture,), **changed)


def test_pods_that_are_named(monkeypatch):
    monkeypatch.setattr(namings, "_FRESH_SECONDS", 0.0)
    made = namings.Namings()
    there = [named("uid-1", "uid-2"), named("uid-3", name="other")]
    assert made.all(lambda: there) == {
        ("ns", "uid-1"): there[0],
        ("ns", "uid-2"): there[0],
        ("ns", "uid-3"): there[1],
    }
    assert made.of(projected.POD, lambda: there) is there[0]
    elsewhere = msgspec.structs.replace(projected.POD, namespace="elsewhere")
    assert made.of(elsewhere, lambda: there) is None
    # A checkpoint of another namespace that names the pod as well is in nobody's way.
    there.append(named("uid-1", namespace="elsewhere"))
    assert made.of(projected.POD, lambda: there) is there[0]
    assert made.of(projected.POD, list) is None


def test_many_pods_look_once(monkeypatch):
    monkeypatch.setattr(namings, "_FRESH_SECONDS", 60.0)
    made, looks = namings.Namings(), []

    def look():
        looks.append(1)
        return [named("uid-1")]

    for _ in range(100):
        assert made.of(projected.POD, look)
    assert len(looks) == 1
