"""The arithmetic of scripts/bench."""

import asyncio
import io
import json
import os
import pathlib
import sys
import tarfile

import pytest
from click import testing

from chrek import cli
from chrek.cli import page_bench

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

from showcase import (
    commandline,
    concurrency,
    errors,
    figures,
    installation,
    rootfs,
    scrape,
    second,
    usage,
)

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


COUNTS = {
    "create dynamocheckpoints": 2,
    "create events": 9,
    "create jobs": 4,
    "create deployments": 2,
    "patch dynamocheckpoints/status": 12,
    "patch dynamographdeployments/status": 5,
    "update leases": 7,
}


def test_writes_are_those_of_checkpoints_or_of_graphs():
    events = {"DynamoCheckpoint": 8, "DynamoGraphDeployment": 1}
    found = figures.per_object(COUNTS, events=events, checkpoints=4, graphs=2)
    assert found["per_checkpoint"] == (2 + 8 + 4 + 12) / 4
    assert found["per_graph"] == (2 + 5 + 1) / 2
    assert "update leases" not in found["by_request"]
    assert figures.per_object(COUNTS, events=events, checkpoints=4, graphs=0)["per_graph"] is None


def test_reads_and_dry_runs_are_no_writes():
    text = "# TYPE chrek_operator_api_requests counter\n" + "".join(
        f'chrek_operator_api_requests_total{{verb="{verb}",resource="pods"}} 1.0\n'
        for verb in ("get", "list", "watch", "dry-run", "delete", "update")
    )
    assert figures.writes(scrape.parse(text)) == {"delete pods": 1, "update pods": 1}


def test_spread():
    found = figures.spread([float(number) for number in range(1, 101)])
    assert found == {"count": 100, "median": 50.5, "p95": 96.0, "largest": 100.0}
    assert figures.spread([]) == {"count": 0}


def test_aims_say_what_is_missed():
    shown = {**dict.fromkeys(figures.AIMS, 0), "peak_mebibytes": 151.2}
    found = figures.aims(shown)
    assert found["peak_mebibytes"] == {"aim": 150, "found": 151.2, "met": False}
    assert [name for name, one in found.items() if not one["met"]] == ["peak_mebibytes"]


async def test_no_more_than_the_limit_at_once():
    running, most, done = 0, 0, []

    async def one(number):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done.append(number)

    await concurrency.bounded((one(number) for number in range(20)), 3)
    assert sorted(done) == list(range(20))
    assert most == 3


async def test_a_failure_beside_ends_the_block_as_it_is():
    async def fails():
        raise errors.ShowError("no answer")

    async def slow():
        await asyncio.sleep(60)

    with pytest.raises(errors.ShowError, match="no answer"):
        async with concurrency.beside(slow(), fails()):
            await asyncio.sleep(60)
    with pytest.raises(errors.ShowError, match="not so after 0 s: x is y"):
        async with concurrency.beside(slow()):
            await concurrency.until(lambda: False, "x is y", seconds=0.01)


def run(first_bytes, second_bytes):
    common = {"artifact_bytes": 1500, "stored_bytes": 2000, "seconds": 4.0}
    return {
        "first": {**common, "sent_bytes": first_bytes},
        "second": {**common, "sent_bytes": second_bytes, "seconds": 0.5},
    }


def test_a_second_checkpoint_is_judged_by_the_median_of_its_ratios():
    found = second.headline([run(1000, 900), run(1000, 130), run(2000, 20)])
    assert found["all"] == [0.9, 0.13, 0.01]
    assert (found["second_of_first"], found["aim_met"]) == (0.13, True)
    assert (found["first_sent_bytes"], found["second_sent_bytes"]) == (1000, 130)
    assert (found["first_seconds"], found["second_seconds"]) == (4.0, 0.5)
    assert not second.headline([run(1000, 131)])["aim_met"]


def packed(files):
    """A tar of names and contents; a content of None is a link to nowhere."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "/nowhere"
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def test_an_image_is_its_layers_one_over_the_other(tmp_path):
    layers = {
        "1.tar": packed(
            {"gone": b"1", "link": None, "a/gone": b"1", "a/kept": b"1", "b/old": b"1"}
        ),
        "2.tar": packed(
            {".wh.gone": b"", "a/.wh.gone": b"", "link": b"2", "b/.wh..wh..opq": b"", "b/new": b"2"}
        ),
    }
    described = [{"Config": "config.json", "Layers": list(layers)}]
    config = {"Env": ["A=b"], "Cmd": ["c"], "User": "1:1"}
    archive = tmp_path / "image.tar"
    archive.write_bytes(
        packed(
            {
                **layers,
                "config.json": json.dumps({"config": config}).encode(),
                "manifest.json": json.dumps(described).encode(),
            }
        )
    )
    root = tmp_path / "root"
    assert rootfs.unpack(archive, root) == config
    files = {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}
    assert files == {"link": "2", "a/kept": "1", "b/new": "2"}
    assert not (root / "link").is_symlink()
    archive.write_bytes(packed({"manifest.json": json.dumps(described * 2).encode()}))
    with pytest.raises(errors.ShowError, match="2 images"):
        rootfs.unpack(archive, tmp_path / "other")


def test_an_installation_is_compared_with_its_limits():
    one = {
        "install_seconds": 20.0,
        "agents_ready_seconds": 61.0,
        "hooks_seconds": 12.0,
        "hooks": {"pre-install": 4.0},
        "without_hooks_seconds": 10.0,
    }
    other = one | {"agents_ready_seconds": 63.0, "install_seconds": 22.0}
    found = installation.summary([one, other, one])
    assert found["install_seconds"] == 20.0
    assert found["hooks_of_install_without"] == 2.0
    assert (found["agents_ready_seconds_limit"], found["agents_ready_seconds_kept"]) == (
        60.0,
        False,
    )
    assert (found["hooks_seconds_limit"], found["hooks_seconds_kept"]) == (20.0, True)
    assert "hooks" not in found


class Watched:
    """A cluster whose hook Job comes and goes."""

    def __init__(self):
        self.jobs = []
        self.ready = 0

    def items(self, path):
        return [{"metadata": {"name": name}} for name in self.jobs]

    def get(self, path):
        return {"status": {"desiredNumberScheduled": 2, "numberReady": self.ready}}


def test_hooks_are_seen_while_they_are_there():
    live = Watched()
    watch = installation.Watch(live)
    watch.look()
    live.jobs = ["chrek-pre-install"]
    watch.look()
    watch.look()
    live.jobs = ["chrek-post-install"]
    watch.look()
    assert watch.agents_ready_seconds is None
    live.ready = 2
    watch.look()
    assert list(watch.hooks()) == ["pre-install", "post-install"]
    assert all(0 < seconds < 5 for seconds in watch.hooks().values())
    assert 0 <= watch.agents_ready_seconds < 5


def test_commands_are_judged_without_their_imports():
    runs = {
        "list": {"all": [1.5, 1.2, 9.0], "imports": [0.6, 0.6, 8.5]},
        "show": {"all": [2.0], "imports": [0.5]},
    }
    found = commandline.headline(runs, 1000)
    assert found["checkpoints"] == 1000
    assert (found["list_all_seconds"], found["list_imports_seconds"]) == (1.5, 0.6)
    assert (found["list_seconds"], found["list_seconds_kept"]) == (0.6, True)
    assert (found["show_seconds"], found["show_seconds_kept"]) == (1.5, False)
    drawn = page_bench.figures({"what": "cli", "figures": found})
    assert [one.label for one in drawn if one.limit == 1.0] == ["list", "show"]


def test_commands_find_what_they_ask_for(tmp_path, monkeypatch):
    """Those that are measured, on the same objects."""
    with commandline._serving(commandline.objects(10)) as url:
        (tmp_path / "config").write_text(json.dumps(commandline._kubeconfig(url)))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        for words in commandline.COMMANDS.values():
            result = testing.CliRunner().invoke(cli.main, words)
            assert result.exit_code == 0, result.output
            assert "note: " not in result.stderr
