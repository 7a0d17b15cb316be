"""promtool on the rules as the chart renders them: they parse, and fire when they should."""

import copy
import re

import pytest

from chart import alert_cases, rendered

pytestmark = [pytest.mark.helm, pytest.mark.chart]

FLAGS = ("--set=podMonitor.enabled=true", "--set=monitoring.rules.enabled=true")
BY_ALERT = {
    alert: [case for case in alert_cases.CASES if case.alert == alert]
    for alert in sorted({case.alert for case in alert_cases.CASES})
}


@pytest.fixture(scope="module")
def groups(helm):
    (document,) = rendered.of_kind(helm.template(*FLAGS), "PrometheusRule")
    return document["spec"]


def rule(groups, alert):
    (found,) = [r for group in groups["groups"] for r in group["rules"] if r["alert"] == alert]
    return found


def changed(groups, alert, expression):
    """The rules, with another expression in one of them."""
    found = copy.deepcopy(groups)
    rule(found, alert)["expr"] = expression
    return found


def test_the_rules_parse(promtool, groups):
    text, good = promtool.check(groups)
    assert good, text
    assert f"SUCCESS: {len(BY_ALERT)} rules found" in text


def test_those_of_every_values_file_parse(promtool, helm):
    """Among them a selector of the user's."""
    seen = 0
    selector = '--set-json=monitoring.rules={"enabled":true,"selector":"job=~\\"a|b\\",c=\\"\\""}'
    for options in [(selector,), *((f"--values={path}",) for path in rendered.VALUES)]:
        for document in rendered.of_kind(helm.template(*options), "PrometheusRule"):
            text, good = promtool.check(document["spec"])
            assert good, text
            seen += 1
    assert seen > 1


def test_every_alert_has_its_cases(groups):
    alerts = {one["alert"] for group in groups["groups"] for one in group["rules"]}
    assert set(BY_ALERT) == alerts
    for case in alert_cases.CASES:
        # In the minute before the first in which it fires it does not yet.
        if case.fires:
            assert min(case.fires) - 1 in case.silent, f"{case.alert}: {case.name}"


@pytest.mark.parametrize("alert", BY_ALERT)
def test_it_fires_when_it_should(promtool, groups, alert):
    text, good = promtool.test(groups, BY_ALERT[alert])
    assert good, text


@pytest.mark.parametrize("alert", BY_ALERT)
@pytest.mark.parametrize("expression", ["vector(1)", "vector(1) > 1"])
def test_one_that_always_or_never_fires_is_found(promtool, groups, alert, expression):
    text, good = promtool.test(changed(groups, alert, expression), BY_ALERT[alert])
    assert not good
    assert f"alertname: {alert}" in text


def parts(groups, alert):
    """The expressions that an alert has when one of what is joined by `or` is left out."""
    found = re.split(r"^\s*or\b", rule(groups, alert)["expr"], flags=re.MULTILINE)
    return [" or ".join(found[:i] + found[i + 1 :]) for i in range(len(found)) if len(found) > 1]


@pytest.mark.parametrize(
    "alert",
    [
        "ChrekRestoresFailing",
        "ChrekColdDespiteReady",
        "ChrekStoreFailing",
        "ChrekAgentNotReady",
    ],
)
def test_each_half_of_an_expression_is_needed(promtool, groups, alert):
    halves = parts(groups, alert)
    assert len(halves) == 2
    for half in halves:
        text, good = promtool.test(changed(groups, alert, half), BY_ALERT[alert])
        assert not good, half
        assert "parse error" not in text


@pytest.mark.parametrize(
    ("alert", "before", "after"),
    [
        ("ChrekRestoresFailing", "15m", "5m"),
        ("ChrekRestoresFailing", 'outcome="failed"', 'outcome!="restored"'),
        ("ChrekRestoresFailing", 'job="my-team/chrek",', ""),
        ("ChrekRestoresFailing", "sum by (node, reason)", "sum by (node)"),
        ("ChrekColdDespiteReady", "30m", "10m"),
        ("ChrekColdDespiteReady", 'job="my-team/chrek"', 'job!=""'),
        ("ChrekStoreNearlyFull", "90 / 100", "95 / 100"),
        ("ChrekStoreNearlyFull", "and max(", "and 1 + max("),
        ("ChrekStoreFailing", "sum by (operation, reason)", "sum by (reason)"),
        ("ChrekStoreFailing", 'job="my-team/chrek"', 'job!=""'),
        ("ChrekCheckpointSuspect", "exported_namespace", "namespace"),
        ("ChrekAgentMissing", 'daemonset="chrek-agent"', ""),
        ("ChrekAgentMissing", 'namespace="my-team",', ""),
        ("ChrekAgentNotReady", 'app_kubernetes_io_component="agent"', ""),
        ("ChrekAgentNotReady", 'job="my-team/chrek"', 'job!=""'),
        ("ChrekPreflightFailed", "max by (node, check)", "max by (check)"),
        ("ChrekOperatorWithoutLeader", 'job="my-team/chrek"', 'job!=""'),
    ],
)
def test_a_change_is_found(promtool, groups, alert, before, after):
    expression = rule(groups, alert)["expr"]
    assert before in expression
    other = changed(groups, alert, expression.replace(before, after))
    text, good = promtool.check(other)
    assert good, text
    text, good = promtool.test(other, BY_ALERT[alert])
    assert not good
    assert f"alertname: {alert}" in text


@pytest.mark.parametrize("broken", ["sum(up", "up{job=}", "nothing(up)", "sum by (up)", 'up + "a"'])
def test_a_broken_expression_is_found(promtool, groups, broken):
    text, good = promtool.check(changed(groups, "ChrekAgentMissing", broken))
    assert not good
    assert "could not parse expression" in text


def test_an_annotation_that_cannot_be_filled_in_is_found(promtool, groups):
    found = copy.deepcopy(groups)
    rule(found, "ChrekAgentMissing")["annotations"]["summary"] = "{{ $labels.node"
    text, good = promtool.check(found)
    assert not good
    assert "template" in text
