from chrek.checks import report


def test_lines_align_and_hint_below():
    outcomes = [
        report.ok("a", "fine"),
        report.warning("longer", "odd", "look at it"),
    ]
    assert list(report.lines(outcomes)) == [
        "ok    a       fine",
        "warn  longer  odd",
        "              -> look at it",
    ]


def test_verdict_of_success_counts_warnings():
    assert report.verdict([report.ok("a", "")], again="x") == "all 1 checks passed"
    outcomes = [report.ok("a", ""), report.warning("b", "", "c")]
    assert report.verdict(outcomes, again="x") == "all 2 checks passed, 1 with a warning"


def test_verdict_of_failure_says_what_to_do():
    outcomes = [
        report.ok("a", ""),
        report.failed("b", "found 1", "make it 2"),
        report.failed("c", "d", "e"),
    ]
    text = report.verdict(outcomes, again="run helm upgrade again")
    assert text == (
        "b failed: found 1. To do: make it 2 (failed too: c). Then run helm upgrade again."
    )


def test_no_outcome_at_all():
    assert list(report.lines([])) == []
