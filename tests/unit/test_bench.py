"""The arithmetic of scripts/bench."""

import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

from showcase import scrape, usage

BEFORE = """
# TYPE chrek_requests counter
chrek_requests_total{resource="jobs",verb="create"} 3.0
# TYPE chrek_seconds histogram
chrek_seconds_bucket{kind="graph",le="0.1"} 1.0
chrek_seconds_bucket{kind="graph",le="+Inf"} 1.0
chrek_seconds_sum{kind="graph"} 0.05
chrek_seconds_count{kind="graph"} 1.0
"""
AFTER = """
# TYPE chrek_requests counter
chrek_requests_total{resource="jobs",verb="create"} 5.0
chrek_requests_total{resource="jobs",verb="delete"} 1.0
chrek_requests_total{resource="pods",verb="get"} 7.0
# TYPE chrek_seconds histogram
chrek_seconds_bucket{kind="graph",le="0.1"} 3.0
chrek_seconds_bucket{kind="graph",le="+Inf"} 4.0
chrek_seconds_sum{kind="graph"} 1.05
chrek_seconds_count{kind="graph"} 4.0
chrek_seconds_bucket{kind="checkpoint",le="0.1"} 10.0
chrek_seconds_bucket{kind="checkpoint",le="+Inf"} 10.0
chrek_seconds_sum{kind="checkpoint"} 0.5
chrek_seconds_count{kind="checkpoint"} 10.0
"""
INFINITE = float("inf")


def test_counters_are_what_was_added():
    added = scrape.parse(AFTER).since(scrape.parse(BEFORE))
    assert added.by("chrek_requests_total", "verb", "resource") == {
        ("create", "jobs"): 2.0,
        ("delete", "jobs"): 1.0,
        ("get", "pods"): 7.0,
    }
    assert added.by("chrek_requests_total", "resource") == {("jobs",): 3.0, ("pods",): 7.0}
    assert scrape.parse(AFTER).since(scrape.parse(AFTER)).by("chrek_requests_total") == {}


def test_histograms_of_all_kinds_and_of_one():
    added = scrape.parse(AFTER).since(scrape.parse(BEFORE))
    every = added.histogram("chrek_seconds")
    assert every.buckets == [(0.1, 12.0), (INFINITE, 13.0)]
    assert every.seconds == pytest.approx(1.5)
    assert added.histogram("chrek_seconds", kind="graph").buckets == [(0.1, 2.0), (INFINITE, 3.0)]
    assert added.histogram("chrek_seconds", kind="other").quantile(0.5) is None


@pytest.mark.parametrize(
    ("part", "value"),
    [(0.0, 0.0), (0.25, 0.005), (0.5, 0.01), (0.75, 0.06), (0.9, 0.084), (1.0, 0.1)],
)
def test_quantiles_are_spread_evenly_within_a_bucket(part, value):
    found = scrape.Histogram([(0.01, 10), (0.02, 10), (0.1, 20), (INFINITE, 20)], 1.0)
    assert found.quantile(part) == pytest.approx(value)


def test_quantiles_beyond_the_last_bound():
    found = scrape.Histogram([(0.01, 1), (INFINITE, 4)], 9.0)
    assert found.quantile(0.95) == 0.01
    assert found.share_within(0.01) == 0.25
    assert found.share_within(0.5) is None


def test_usage_of_this_process():
    own = usage.of(os.getpid())
    spent = os.times()
    assert own.cpu_seconds == pytest.approx(spent.user + spent.system, abs=0.5)
    assert 1 << 20 < own.resident_bytes <= own.peak_bytes


def test_a_process_with_a_name_that_looks_like_fields(tmp_path):
    (tmp_path / "7").mkdir()
    fields = ["S", *["0"] * 10, "150", "50", *["0"] * 30]
    (tmp_path / "7" / "stat").write_text(f"7 (a) b (c) {' '.join(fields)}\n")
    (tmp_path / "7" / "status").write_text("Name:\ta\nVmHWM:\t  20 kB\nVmRSS:\t  10 kB\n")
    found = usage.of(7, proc=tmp_path)
    assert found == usage.Usage(200 / os.sysconf("SC_CLK_TCK"), 10240, 20480)
