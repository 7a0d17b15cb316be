"""The table of Reasons: complete, in order, and short enough for one screen."""

import re

import pytest

from chrek import compatibility, names, reasons

RUNS = re.compile(r"`(?:kubectl )?chrek (\w+)")


def test_every_reason_has_an_entry_in_the_order_of_names():
    assert list(reasons.TABLE) == list(names.Reason)


@pytest.mark.parametrize("reason", names.Reason)
def test_an_entry_is_plain_text_without_an_end(reason):
    meaning, action = reasons.TABLE[reason]
    assert 10 < len(meaning) < 120
    assert len(action) < 240
    for text in (meaning, action):
        assert text == " ".join(text.split()), "one line"
        assert not text.endswith("."), "it is part of a line"
        assert text.count("`") % 2 == 0
    assert reason not in meaning.split(), "the word is not explained by itself"


def test_commands_that_are_named_exist():
    from chrek import cli

    used = {name for advice in reasons.TABLE.values() for name in RUNS.findall(advice.action)}
    assert {"retry", "show", "doctor", "list", "verify"} <= used
    assert used <= set(cli._COMMANDS)


def test_what_went_wrong_says_what_to_do():
    fine = {
        *(names.Reason.RESTORED, names.Reason.CHECKPOINTED, names.Reason.AVAILABLE),
        names.Reason.SHARED_ARTIFACT,
    }
    assert {reason for reason, advice in reasons.TABLE.items() if not advice.action} == fine


def test_reasons_of_differences_are_those_of_the_facts():
    facts = {fact.reason for fact in compatibility.FACTS}
    assert facts <= reasons.COMPATIBILITY
    assert names.Reason.NO_VARIANT in reasons.COMPATIBILITY
    assert names.Reason.CRIU_FAILED not in reasons.COMPATIBILITY


def test_names_are_put_into_an_action():
    advice = reasons.advice("Suspect")
    assert advice.of(checkpoint="llama").endswith("`chrek retry llama`")
    assert advice.of().endswith("`chrek retry CHECKPOINT`")
    advice = reasons.advice("NoMatchingVariant")
    assert "`chrek diff llm-1 llama -n a`" in advice.of(checkpoint="llama -n a", pod="llm-1")


def test_a_word_of_a_newer_version():
    assert reasons.advice("Unheard") is reasons.UNKNOWN
    assert reasons.advice("") is reasons.UNKNOWN
