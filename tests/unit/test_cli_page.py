"""The page of `chrek report`: well-formed, self-contained, and no text of the cluster is markup."""

import datetime
import html.parser
import json
import pathlib
import re

import pytest

from chrek.cli import checkpoints, page, page_bench, page_charts, page_data, page_html
from fakes import warm

BENCH = pathlib.Path(__file__).resolve().parents[2] / "docs" / "bench"
NOW = datetime.datetime(2026, 1, 29, 12, tzinfo=datetime.UTC)
EVIL = "<script>alert('\"&')</script>"
VOID = ("meta", "br")
SECTIONS = ["checkpoints", "starts", "reasons", "restores", "captures", "sizes"]
STEPS = {"queued": 0.1, "stage": 0.06, "criu": 0.95, "gpu_restore": 0.4}


class Reader(html.parser.HTMLParser):
    """Reads a page as strictly as this test wants it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.tags, self.attributes, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        assert len(found) == len(attrs), attrs
        self.tags.append(tag)
        self.attributes.extend((tag, *pair) for pair in attrs)
        if "id" in found:
            self.ids.append(found["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def report(items=(), pods=(), events=(), *, namespace="team", **changes):
    rows, artifacts = page_data.checkpoint_rows(items, checkpoints.Asking(pods, ()))
    return page_data.Report(
        facts={"Cluster": "here", "Kubernetes": ""},
        namespace=namespace,
        now=NOW,
        rows=rows,
        artifacts=artifacts,
        starts=page_data.starts(pods, events, items),
        **changes,
    )


def many(number):
    items = []
    for place in range(number):
        made = [warm.artifact(uuid=f"{place}-{n}", bytes=10**9 + place) for n in range(2)]
        item = warm.checkpoint(f"c-{place:04}", variants=made)
        item["status"]["identityHash"] = f"{place:016x}"
        items.append(item)
    pods = [
        warm.pod(f"p-{n}", wanted=f"c-{n % 9:04}", start=warm.restored(steps=STEPS))
        for n in range(number)
    ]
    return items, pods


def full():
    items, pods = many(3)
    pods.append(warm.pod("cold", start=warm.cold("CheckpointNotReady")))
    pods.append(warm.pod("failed", start=warm.cold("CriuFailed", outcome="failed")))
    return report(items, pods)


def checked(text):
    found = Reader(text)
    assert len(set(found.ids)) == len(found.ids)
    for _, name, value in found.attributes:
        if name == "aria-labelledby":
            assert value in found.ids
    return found


def test_the_structure():
    found = checked(page.render(full(), page_bench.read(BENCH)))
    for section in (*SECTIONS, "bench"):
        assert section in found.ids
        assert f"{section}-heading" in found.ids
    for chart in ("sizes", "starts", "restores", "captures"):
        assert f"{chart}-chart" in found.ids
    assert found.tags.count("h1") == 1
    assert found.tags.count("title") > found.tags.count("svg") > 10
    assert found.tags.count("caption") == found.tags.count("table") == 3
    assert ("html", "lang", "en") in found.attributes
    scopes = [value for tag, name, value in found.attributes if (tag, name) == ("th", "scope")]
    assert found.tags.count("th") == len(scopes)
    assert set(scopes) == {"col", "row"}


def test_it_loads_and_runs_nothing():
    text = page.render(full(), page_bench.read(BENCH))
    found = checked(text)
    for tag in ("script", "link", "img", "iframe", "object", "embed", "base", "use", "image"):
        assert tag not in found.tags
    names = {name for _, name, _ in found.attributes}
    assert not names & {"src", "xlink:href", "srcset", "action", "style"}
    links = [value for _, name, value in found.attributes if name == "href"]
    assert links == [f"#{section}" for section in (*SECTIONS, "bench")]
    assert not [name for name in names if name.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", text)
    policies = [value for _, name, value in found.attributes if name == "content"]
    assert any(value.startswith("default-src 'none'") for value in policies)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_texts_of_the_cluster_are_escaped():
    made = warm.artifact(image=f"{EVIL}/{EVIL}", node=EVIL, steps={EVIL: 1.0}, gpu=EVIL)
    item = warm.checkpoint(EVIL, variants=[made])
    item["spec"]["identity"] = {"model": EVIL, "backendFramework": EVIL}
    item["status"]["message"] = EVIL
    broken = warm.checkpoint(f"{EVIL}2", "Failed")
    broken["status"].update(phase=EVIL, message=EVIL)
    pods = [
        warm.pod(f"{EVIL}1", wanted=EVIL, start=warm.restored(steps={EVIL: 1.0})),
        warm.pod(f"{EVIL}2", wanted=EVIL, start=warm.cold(EVIL, EVIL)),
        warm.pod(f"{EVIL}3", wanted=EVIL, start=warm.cold("CheckpointNotReady", EVIL)),
    ]
    bench = {
        "what": EVIL,
        "file": EVIL,
        "machine": {"cpu": EVIL},
        "medians": {f"{EVIL}_seconds": 1},
    }
    text = page.render(report([item, broken], pods, notes=[EVIL], namespace=EVIL), [bench])
    found = checked(text)
    assert "script" not in found.tags
    assert "<script" not in text
    assert sum(EVIL in words for words in found.texts) >= 10


@pytest.mark.parametrize("char", ["\x00", "\x1b", "\x85", "\u202e", "\u2066", "\ud800", "\uffff"])
def test_what_no_page_may_hold_is_replaced(char):
    text = page_html.escape(f"a{char}b")
    assert text == "a\ufffdb"
    assert text.encode()


def test_commands_in_prose():
    assert page_html.prose("see `a <b>` now") == "see <code>a &lt;b&gt;</code> now"
    assert page_html.prose("an odd ` one") == "an odd ` one"


@pytest.mark.parametrize("namespace", ["team", ""])
def test_an_empty_namespace_says_what_to_do(namespace):
    found = checked(page.render(report(namespace=namespace)))
    assert [one for one in found.ids if not one.endswith("-heading")] == SECTIONS
    assert "svg" not in found.tags
    option = " -n team" if namespace else ""
    assert f"chrek checkpoint deployment/NAME{option} --model MODEL --backend vllm" in found.texts
    assert f"chrek doctor{option}" in found.texts
    assert "No start was cold." in found.texts
    assert "nav" not in found.tags


def test_where_pods_may_not_be_listed_nothing_is_claimed():
    texts = checked(page.render(report([warm.checkpoint()], pods_known=False))).texts
    assert "Pods may not be listed, so nothing is known of starts." in texts
    assert "No cold start is known." in texts
    assert "No start was cold." not in texts


def test_one_that_no_operator_has_noticed():
    item = warm.checkpoint()
    item["status"] = {}
    found = checked(page.render(report([item])))
    assert "not noticed yet" in found.texts


def test_a_thousand():
    items, pods = many(1000)
    text = page.render(report(items, pods))
    assert len(text.encode()) < 3_000_000
    found = checked(text)
    assert found.tags.count("tr") > 1000
    assert any(words.startswith("And 1,975 smaller artifacts") for words in found.texts)


def test_what_is_not_ready_comes_first():
    items = [warm.checkpoint(name, phase) for name, phase in (("a", "Ready"), ("b", "Failed"))]
    found = checked(page.render(report(items)))
    assert found.texts.index("b") < found.texts.index("a")
    assert "2 checkpoints, those that are not Ready first, then by name" in found.texts
    assert "1 checkpoint, by name" in checked(page.render(report(items[:1]))).texts


@pytest.mark.parametrize(("number", "tall"), [(page.MOST_ROWS, 0), (page.MOST_ROWS + 1, 1)])
def test_a_long_table_scrolls(number, tall):
    found = checked(page.render(report(*many(number))))
    assert found.attributes.count(("div", "class", "scroll tall")) == tall


def test_only_a_few_users_are_named():
    pods = [warm.pod(f"p{n}") for n in range(9)]
    found = checked(page.render(report([warm.checkpoint()], pods)))
    assert "pod/p2" in found.texts
    assert "and 6 more" in found.texts
    assert "pod/p3" not in found.texts


def test_shared_artifacts_count_once():
    found = report([warm.checkpoint("a"), warm.checkpoint("b")])
    assert len(found.rows) == 2
    assert len(found.artifacts) == 1


def started(outcome, at, name="p", reason="Restored"):
    return warm.pod(name, start={**warm.cold(reason), "outcome": outcome, "at": at})


def test_starts_by_hour():
    pods = [
        started("restored", "2026-01-29T10:05:00Z", "a"),
        started("cold", "2026-01-29T10:55:00Z", "b"),
        started("unhealthy", "2026-01-29T12:00:00Z", "c"),
        started("restored", "nonsense", "d"),
    ]
    unit, columns, older = page_data.over_time(page_data.starts(pods, []))
    assert (unit, older) == ("hour", 0)
    assert columns == [
        page_charts.Column("01-29 10:00", warm=1, cold=1),
        page_charts.Column("01-29 11:00"),
        page_charts.Column("01-29 12:00", failed=1),
    ]


def test_starts_by_day_where_they_span_more():
    pods = [
        started("restored", "2025-06-01T10:00:00Z", "a"),
        started("cold", "2026-01-25T10:00:00Z", "b"),
        started("restored", "2026-01-29T10:00:00Z", "c"),
    ]
    found = report([], pods)
    unit, columns, older = page_data.over_time(found.starts)
    assert (unit, len(columns), older) == ("day", page_data.MOST_DAYS, 1)
    assert columns[-1] == page_charts.Column("2026-01-29", warm=1)
    assert "1 start before 2025-11-01 not shown." in checked(page.render(found)).texts


def test_events_tell_of_earlier_starts_and_of_pods_that_are_gone():
    pod = warm.pod(start=warm.cold("PreviousRestoreFailed", at="2026-01-29T11:00:00Z"))
    events = [
        warm.event("PreviousRestoreFailed", at="2026-01-29T11:00:01.5Z"),
        warm.event("CriuFailed", at="2026-01-29T10:59:00Z"),
        warm.event("Restored", about="gone", at="2026-01-29T10:00:00Z"),
        warm.event("Checkpointed", about="job", at="2026-01-29T09:00:00Z"),
        warm.event("CriuFailed", about="failed-job", at="2026-01-29T09:00:00Z"),
        warm.event("Restored", about="other", component="chrek-operator"),
    ]
    capture = {"variant": "v", "phase": "Failed", "pods": [{"name": "failed-job", "uid": "u"}]}
    item = warm.checkpoint(captures=[capture])
    found = page_data.starts([pod], events, [item])
    told = [(one.pod, one.told.outcome, one.told.reason) for one in found]
    assert told == [
        ("llm-1", "cold", "PreviousRestoreFailed"),
        ("llm-1", "cold", "CriuFailed"),
        ("gone", "restored", "Restored"),
    ]
    assert found[1].wanted == "llama"


def test_reasons_of_cold_starts():
    pods = [
        started("cold", "2026-01-29T11:00:00Z", "a", "CheckpointNotReady"),
        started("cold", "2026-01-29T11:30:00Z", "b", "CheckpointNotReady"),
        started("failed", "2026-01-29T10:00:00Z", "c", "NeverHeardOf"),
    ]
    first, second = page_data.colds(page_data.starts(pods, []))
    assert (first.reason, [one.pod for one in first.starts]) == ("CheckpointNotReady", ["b", "a"])
    assert second.reason == "NeverHeardOf"
    texts = checked(page.render(report([], pods))).texts
    assert "chrek show llama -n team" in texts
    assert "the checkpoint was not made yet when the pod started" in texts


def test_steps_that_are_no_seconds():
    start = warm.restored(steps={"criu": -1.0, "stage": 0.5, "x": "y"})
    (found,) = page_data.starts([warm.pod(start=start)], [])
    assert found.told.steps == {"stage": 0.5}
    none = checked(page.render(report([], [warm.pod(start=warm.restored())])))
    assert "chrek explain POD" in none.texts


def test_pods_that_did_not_start_are_in_no_column():
    found = checked(page.render(report([], [warm.pod(status={"phase": "Pending"})])))
    assert "Managed pods that are in no column: 1 pending." in found.texts


def test_a_chart_of_steps():
    steps = {f"step{n}": float(n) for n in range(1, 10)}
    text = page_charts.steps("x", "Steps", [page_charts.Row("a", "b", steps)])
    found = checked(text)
    assert "other steps" in found.texts
    classes = [value for tag, name, value in found.attributes if (tag, name) == ("rect", "class")]
    assert classes.count("other seg") == 3
    widths = [
        float(value) for tag, name, value in found.attributes if (tag, name) == ("rect", "width")
    ]
    assert sum(widths) == pytest.approx(page_charts.WIDTH - 30, abs=0.1)
    assert widths == sorted(widths)


@pytest.mark.parametrize(
    ("value", "whole", "found"),
    [(0, False, 1), (0.3, False, 0.5), (3, False, 5), (7, True, 10), (0.2, True, 1), (2, True, 2)],
)
def test_nice_numbers(value, whole, found):
    assert page_charts.nice(value, whole=whole) == pytest.approx(found)


def test_bars_and_their_limits():
    bars = [page_charts.Bar("a", 1, "1"), page_charts.Bar("b" * 99, 0, "0", limit=2.0)]
    found = checked(page_charts.bars("x", "Bars", bars))
    assert found.tags.count("line") == 1
    assert "bbbbbbbb…bbb" in "".join(found.texts)
    checked(page_charts.bars("x", "No bars", []))


@pytest.mark.parametrize("letter", "iaWé")
@pytest.mark.parametrize("room", [0.0, 20.0, 280.0])
def test_names_are_cut_where_they_are_alike(letter, room):
    name = f"a{letter * 60}-0007"
    found = page_charts.cut(name, room)
    assert page_charts.width(found) <= max(room, page_charts.width("…"))
    if room > 200:
        start, _, end = found.partition("…")
        assert name.startswith(start)
        assert end.endswith("-0007")
    assert page_charts.cut(name, 10**4) == name


def test_lists_are_cut_between_their_parts():
    text = "together 9 s: criu 5.00 s, stage 3.00 s, fetch 1.00 s"
    assert page_charts.some(text, 10**4) == text
    assert page_charts.some(text, page_charts.width(text) - 1) == (
        "together 9 s: criu 5.00 s, stage 3.00 s, …"
    )
    assert page_charts.width(page_charts.some("W" * 99, 90)) <= 90


@pytest.mark.parametrize("number", [1, 7, 25, page_data.MOST_DAYS])
def test_the_newest_column_is_named(number):
    items = [page_charts.Column(f"2026-01-{n:02}", warm=1) for n in range(number)]
    found = checked(page_charts.columns("x", "Starts", items))
    labels = [words for words in found.texts if words.startswith("2026") and ":" not in words]
    assert labels[-1] == items[-1].label


def test_every_benchmark_of_ours_is_drawn():
    documents = page_bench.read(BENCH)
    assert {one["what"] for one in documents} >= {"start", "restore", "store", "vllm", "operator"}
    for one in documents:
        assert page_bench.figures(one), one["file"]
    found = checked(page_bench.plots(documents))
    assert "nan" not in "".join(found.texts).lower().split()


def test_limits_of_benchmarks():
    document = {
        "what": "x",
        "file": "x.json",
        "figures": {
            "a_seconds": 3,
            "a_seconds_limit": 2.0,
            "a_seconds_kept": False,
            "b_percent": 1,
            "name": "words",
            "yes": True,
        },
        "aims": {"b_percent": {"aim": 4, "found": 1, "met": True}},
    }
    assert page_bench.figures(document) == [
        page_bench.Figure("a", 3.0, "s", limit=2.0, met=False),
        page_bench.Figure("b", 1.0, "%", limit=4.0, met=True),
    ]
    texts = checked(page_bench.plots([document])).texts
    assert "3 s of 2 s, aim missed" in texts
    assert "1 % of 4 %, aim met" in texts


def test_a_benchmark_of_a_workload_says_which_and_where():
    document = {
        "what": "bench",
        "file": "x.json",
        "workload": "deployment/llm",
        "machine": {"date": "2026-11-29", "nodes": [{"name": "n1"}, "?"]},
        "medians": {"cold_ready_seconds": 30.0, "warm_ready_seconds": 1.5, "speed_up_ready": 20.0},
    }
    texts = checked(page_bench.plots([document])).texts
    assert "x.json, deployment/llm, 2026-11-29, node n1" in texts
    assert "Also: speed up ready 20." in texts


def test_a_benchmark_without_figures(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"what": "new", "machine": 3, "figures": "?"}))
    (tmp_path / "b.json").write_text("[]")
    documents = page_bench.read(tmp_path)
    assert len(documents) == 1
    assert (
        "The file has no figures that can be drawn." in checked(page_bench.plots(documents)).texts
    )
