import threading
import time

import pytest

from chrek import errors
from chrek.hooks import trip_steps


def test_a_row_for_each_step_and_each_fact():
    steps = trip_steps.Steps()
    with steps.step("first") as note:
        note("a")
        note("b")
    with steps.step("second one"):
        pass
    lines = list(trip_steps.table([*steps.rows, trip_steps.Row("fact", None, "so it is")]))
    assert lines == [
        "step        seconds  note",
        "first          0.00  a, b",
        "second one     0.00",
        "fact                 so it is",
    ]


def test_seconds_are_those_of_the_step():
    steps = trip_steps.Steps()
    with steps.step("slow"):
        time.sleep(0.05)
    assert 0.05 <= steps.rows[0].seconds < 5


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (errors.ChrekError("no", reason="CriuFailed"), "begun, FAILED: CriuFailed"),
        (trip_steps.GivenUp("no"), "begun, given up"),
        (trip_steps.NotTested("no"), "begun, not tested"),
    ],
)
def test_a_step_that_fails_says_so(error, note):
    steps = trip_steps.Steps()

    def fail():
        with steps.step("step") as tell:
            tell("begun")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert steps.rows[0].note == note


def test_waiting_ends_with_the_first_answer():
    answers = iter([None, None, "yes"])
    assert trip_steps.Patience(5).wait(lambda: next(answers), "it") == "yes"


def test_an_answer_that_is_false_is_an_answer():
    assert trip_steps.Patience(5).wait(lambda: 0, "it") == 0


@pytest.mark.parametrize(
    ("look", "hint"),
    [
        ("", "see the logs of the agents and of the operator, or raise tests.timeoutSeconds"),
        ("or there", "of the operator, or there, or raise tests.timeoutSeconds"),
    ],
)
def test_time_is_over(look, hint):
    with pytest.raises(errors.ChrekError, match="waited 0 s in all, at the end for it") as caught:
        trip_steps.Patience(0.01).wait(lambda: None, "it", look=look)
    assert caught.value.reason == "RestoreTimeout"
    assert caught.value.hint.endswith(hint)


def test_a_wait_that_nobody_needs_ends_at_once():
    patience = trip_steps.Patience(60)
    caught = []

    def wait():
        try:
            patience.wait(lambda: None, "it")
        except trip_steps.GivenUp as err:
            caught.append(str(err))

    thread = threading.Thread(target=wait)
    thread.start()
    patience.stop()
    thread.join(5)
    assert caught == ["nobody waits for it any more"]
