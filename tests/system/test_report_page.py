"""The page of `chrek report` and the documentation site, as a browser shows them."""

from __future__ import annotations

import datetime
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click import testing

from chrek import cli
from chrek.cli import checkpoints, page, page_bench, page_data
from fakes import api_server, warm
from system import browser

pytestmark = pytest.mark.system
ROOT = pathlib.Path(__file__).resolve().parents[2]
NOW = datetime.datetime(2026, 1, 29, 12, tzinfo=datetime.UTC)
WIDTHS = (400, 1280)
MODELS = ("meta-llama/Llama-3.1-70B-Instruct", "Qwen/Qwen3-0.6B", "deepseek-ai/DeepSeek-V3.1")
LONG = "llama-3-1-70b-instruct-tensor-parallel-8-speculative-decoding-with-an-eagle-head"
CAPTURE = {
    "quiesce": 1.21, "outsiders": 0.002, "preflight": 0.031, "gpu_lock": 0.18,
    "gpu_checkpoint": 6.4, "dump": 9.87, "files": 0.44, "digest": 3.02, "sync": 2.31,
}  # fmt: skip
RESTORE = {
    "queued": 0.04, "fetch": 2.9, "stage": 0.061, "privilege": 0.004, "sockets": 0.012,
    "criu": 3.95, "pages": 1.1, "verify_wait": 0.3, "tell": 0.001, "gpu_restore": 2.41,
    "gpu_unlock": 0.09, "wake": 0.2,
}  # fmt: skip
HOSTILE = (
    "<script>document.title = 'ran'</script>",
    "<img src=x onerror=\"document.title='ran'\">",
    "'\"></text></svg><iframe src=https://example.com></iframe>",
    "\u202egnp.exe\u202c \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "two\nlines\r\nand\ta tab",
    "javascript:document.title='ran'",
    "&lt;b&gt; &#x3c;script&#x3e;",
    "W" * 253,
)


def at(minutes: float) -> str:
    return f"{NOW - datetime.timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}"


def report(items: Any = (), pods: Any = (), **changes: Any) -> page_data.Report:
    rows, artifacts = page_data.checkpoint_rows(items, checkpoints.Asking(pods, ()))
    facts = {
        "Cluster": "production-eu-west-4", "Kubernetes": "v1.34.1", "Namespace": "team",
        "Time": "2026-01-29 12:00:00 UTC", "chrek": "0.9.0",
    }  # fmt: skip
    told = {"facts": facts, "namespace": "team", "now": NOW, **changes}
    starts = page_data.starts(pods, (), items)
    return page_data.Report(rows=rows, artifacts=artifacts, starts=starts, **told)


def faster(steps: dict[str, float], share: float) -> dict[str, float]:
    return {name: seconds * share for name, seconds in steps.items()}


def made(place: int, name: str, *, phase: str = "Ready", artifacts: int = 1) -> dict[str, Any]:
    """A checkpoint, as the operator leaves it."""
    size = (0.6, 15.3, 141.2)[place % 3] * 10**9 * (1 + place % 7 / 10)
    variants = [
        warm.artifact(
            f"registry.example.com/inference/vllm-runtime:1.{place}.{number}",
            uuid=f"{place}-{number}",
            bytes=int(size),
            node=f"gpu-node-{place % 5}",
            createdAt=at(60 + 7 * place),
            steps=faster(CAPTURE, 0.3 + place % 4 / 3),
            gpu="8 x NVIDIA H200",
        )
        for number in range(artifacts if phase == "Ready" else 0)
    ]
    item = warm.checkpoint(name, phase, variants=variants, creationTimestamp=at(3000 - place))
    model = {"model": MODELS[place % 3], "backendFramework": ("vllm", "sglang")[place % 2]}
    item["spec"]["identity"] = model
    item["status"]["identityHash"] = f"{place:016x}"
    return item


def started(place: int, name: str, wanted: str, *, outcome: str = "restored") -> dict[str, Any]:
    when = at(9 * place % 1400)
    if outcome == "restored":
        start = warm.restored(steps=faster(RESTORE, 0.4 + place % 5 / 5), at=when)
    else:
        reason = ("CheckpointNotReady", "AgentUnavailable", "CriuFailed")[place % 3]
        message = "the checkpoint is in phase Creating: waiting for the checkpoint job's pod"
        start = warm.cold(reason, message, outcome=outcome, at=when)
    return warm.pod(name, wanted=wanted, start=start)


def several() -> tuple[list[Any], list[Any]]:
    names = [f"{model.rpartition('/')[2].lower()}-{n}" for n in range(4) for model in MODELS]
    phases = {3: "Failed", 7: "Pending"}
    items = [
        made(n, name, phase=phases.get(n, "Ready"), artifacts=1 + (n == 4))
        for n, name in enumerate(names)
    ]
    items[5]["status"]["variants"][0]["suspect"] = True
    outcomes = {5: "cold", 11: "failed", 14: "cold", 21: "cold", 33: "unhealthy"}
    pods = [
        started(
            n, f"{names[n % 12]}-7d9f5c-{n:05x}", names[n % 12], outcome=outcomes.get(n, "restored")
        )
        for n in range(40)
    ]
    return items, pods


def thousand() -> tuple[list[Any], list[Any]]:
    names = [f"{LONG}-{n:04}" for n in range(999)] + ["x" * 253]
    items = [
        made(n, name, phase="Failed" if n % 50 == 9 else "Ready") for n, name in enumerate(names)
    ]
    pods = [
        started(
            n,
            f"{names[n]}-5b8c9d7f66-{n:05x}",
            names[n % 9],
            outcome="cold" if n % 4 == 1 else "restored",
        )
        for n in range(1000)
    ]
    return items, pods


def hostile() -> tuple[list[Any], list[Any]]:
    items, pods = [], []
    for n, words in enumerate(HOSTILE):
        item = made(n, words)
        item["spec"]["identity"] = {"model": words, "backendFramework": words}
        item["status"]["variants"][0].update(image=words, node=words, gpu=words, steps={words: 1.0})
        failed = made(n + 100, f"{words}2", phase="Failed")
        failed["status"].update(phase=words, message=words)
        items += [item, failed]
        pods.append(warm.pod(f"{words}1", wanted=words, start=warm.restored(steps={words: 1.0})))
        pods.append(warm.pod(f"{words}2", wanted=words, start=warm.cold(words, words)))
    return items, pods


def benches() -> list[Any]:
    return page_bench.read(ROOT / "docs" / "bench")


def hostile_benches() -> list[Any]:
    return [
        {
            "what": w,
            "file": w,
            "machine": {"cpu": w},
            "medians": {f"{w}_seconds": 1, f"{w}2_seconds": 2},
        }
        for w in HOSTILE
    ]


CASES = {
    "empty": lambda: page.render(report(pods_known=False, notes=["pods: you may not list them"])),
    "several": lambda: page.render(report(*several())),
    "benches": lambda: page.render(report(*several(), namespace=""), benches()),
    "thousand": lambda: page.render(report(*thousand()), benches()),
    "hostile": lambda: page.render(report(*hostile(), notes=HOSTILE), hostile_benches()),
}


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Tab]:
    with browser.running() as found:
        yield found


@pytest.fixture(scope="module")
def pictures(cache: pathlib.Path) -> pathlib.Path:
    """A directory that stays, for a person to look into."""
    found = cache / "pictures"
    found.mkdir(parents=True, exist_ok=True)
    return found


@pytest.fixture(scope="module")
def pages(pictures: pathlib.Path) -> dict[str, pathlib.Path]:
    for name, render in CASES.items():
        (pictures / f"{name}.html").write_bytes(render().encode())
    return {name: pictures / f"{name}.html" for name in CASES}


def wrong(tab: browser.Tab, *functions: str) -> list[str]:
    return [f"{name}: {words}" for name in functions for words in tab.ask(f"looks.{name}()")]


def test_what_is_wrong_is_found(tab: browser.Tab, tmp_path: pathlib.Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        """<!DOCTYPE html><p style="color: #999">pale</p>
        <p style="width: 3000px">wide</p><table><tbody><tr><td>1</table>
        <svg role="img" id="none" viewBox="0 0 99 20"></svg>
        <svg role="img" id="some" viewBox="0 0 99 20" style="width: 99px">
        <rect width="9" height="9"/><text y="10">one</text><text x="9" y="10">other</text>
        <text x="90" y="10">outside</text></svg><img src="missing.png">
        <script>console.error("oh"); throw new Error("no")</script>"""
    )
    tab.open(bad, width=400)
    found = wrong(tab, "overflow", "charts", "contrast", "tables")
    for words in (
        'overflow: p "wide"',
        "charts: none: no mark",
        'charts: some: text "one" on text "other"',
        'charts: some: outside: text "outside"',
        'contrast: 2.85: p "pale"',
        "tables: no caption",
        "tables: no header of a column",
    ):
        assert any(one.startswith(words) for one in found), (words, found)
    kinds = {one.partition(":")[0] for one in tab.problems}
    assert kinds == {"console", "exception", "log"}
    assert any(one.endswith("missing.png") for one in tab.requests)


@pytest.mark.parametrize("case", CASES)
def test_it_is_shown(
    tab: browser.Tab,
    pages: dict[str, pathlib.Path],
    case: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = pages[case]
    tab.open(file, width=400)
    assert wrong(tab, "overflow", "charts", "contrast", "tables") == []
    assert tab.ask("looks.small(11)") == []
    tab.picture(file.with_name(f"{case}-400.png"))
    for dark in (False, True):
        tab.show(width=1280, dark=dark)
        assert wrong(tab, "overflow", "charts", "contrast") == []
        tab.picture(file.with_name(f"{case}-1280-{'dark' if dark else 'light'}.png"))
    assert tab.problems == []
    assert tab.requests == [file.as_uri()]
    with capsys.disabled():
        print(f"\n{file.stat().st_size:,} bytes: {file}", end="")


@pytest.mark.parametrize("case", CASES)
def test_on_paper(tab: browser.Tab, pages: dict[str, pathlib.Path], case: str) -> None:
    """Light, whatever the screen is; nothing is cut off, and no letter is below 6 points."""
    tab.open(pages[case], width=browser.A4, dark=True, media="print")
    assert wrong(tab, "overflow", "charts", "contrast") == []
    assert tab.ask("looks.small(8)") == []
    assert tab.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    scrolls = "[...document.querySelectorAll('.scroll, figure')]"
    hidden = f"{scrolls}.filter(one => one.scrollHeight > one.clientHeight + 2).map(one => one.id)"
    assert tab.ask(hidden) == []


def test_a_thousand_do_not_hide_the_rest(tab: browser.Tab, pages: dict[str, pathlib.Path]) -> None:
    tab.open(pages["thousand"])
    assert tab.ask("document.querySelectorAll('#checkpoints tbody tr').length") == 1000
    assert tab.ask("document.querySelector('#starts').getBoundingClientRect().top") < 1200
    tab.ask("document.querySelector('#checkpoints .scroll').scrollTop = 5000")
    head, box = (
        tab.ask(f"document.querySelector('#checkpoints {one}').getBoundingClientRect().top")
        for one in ("thead th", ".scroll")
    )
    assert head == pytest.approx(box, abs=1), "the names of the columns stay in sight"


def test_names_are_texts(tab: browser.Tab, pages: dict[str, pathlib.Path]) -> None:
    """The escaping is enough: the policy that forbids scripts is set aside here."""
    tab.send("Page.setBypassCSP", enabled=True)
    try:
        tab.open(pages["hostile"])
        title = "chrek report: namespace team"
        assert tab.ask("document.title") == title
        assert tab.ask("document.querySelectorAll('script, img, iframe, b').length") == 0
        assert tab.requests == [pages["hostile"].as_uri()]
        names = tab.ask(
            "[...document.querySelectorAll('#checkpoints tbody th')].map(one => one.textContent)"
        )
        # What turns letters around is replaced, and a page has no carriage return.
        plain = [re.sub("[\u202c\u202e]", "\ufffd", one).replace("\r\n", "\n") for one in HOSTILE]
        assert sorted(names) == sorted([*plain, *(f"{one}2" for one in plain)])
    finally:
        tab.send("Page.setBypassCSP", enabled=False)


def test_it_needs_no_scripts(tab: browser.Tab, pages: dict[str, pathlib.Path]) -> None:
    tab.open(pages["benches"])
    usual = tab.picture()
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(pages["benches"])
        assert tab.picture() == usual
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)


def test_the_keyboard(tab: browser.Tab, pages: dict[str, pathlib.Path]) -> None:
    """Links, then what scrolls, from top to bottom, each seen; what is behind is reached."""
    tab.open(pages["several"], width=400)
    found = []
    for _ in range(40):
        tab.tab()
        one = tab.ask("looks.focus()")
        if one is None or (found and one["place"] <= found[0]["place"]):
            break
        found.append(one)
    assert [one["place"] for one in found] == sorted({one["place"] for one in found})
    assert all(one["seen"] for one in found), found
    kinds = [re.split(r"[ .#]", one["name"])[0] for one in found]
    assert kinds == ["a"] * 6 + ["div", "figure", "summary", "div", "figure", "figure", "figure"]
    targets = (
        "[...document.querySelectorAll('nav a')].map(one => !!document.querySelector(one.hash))"
    )
    assert tab.ask(targets) == [True] * 6


# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
@pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
def test_pictures_and_the_terminal_tell_the_same(
    tab: browser.Tab, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds of `show --timeline` are titles and widths of bars; the sums are in words as well."""

    def run(*arguments: str) -> str:
        done = testing.CliRunner().invoke(cli.main, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    capture, restore = faster(CAPTURE, 1.337), faster(RESTORE, 0.731)
    file = tmp_path / "page.html"
    with api_server.ApiServer() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "team")))
        item = warm.checkpoint(variants=[warm.artifact(steps=capture)])
        warm.cluster(api, item, pods=[warm.pod(start=warm.restored(steps=restore))])
        shown, explained = run("show", "llama", "--timeline"), run("explain", "llm-1")
        run("report", "-o", str(file))
    tab.open(file)
    bars = re.findall(r"^ +(\w+) +([\d.]+) s(?:  |$)", shown, re.MULTILINE)
    assert [name for name, _ in bars] == list(CAPTURE)
    drawn = tab.ask(
        "[...document.querySelectorAll('#captures-chart rect')].map(one => "
        "[one.querySelector('title').textContent, one.getBBox().x, one.getBBox().width])"
    )
    assert [words for words, _, _ in drawn] == [f"{name} {told} s" for name, told in bars]
    (second,) = tab.ask(
        "[...document.querySelectorAll('#captures-chart text')]"
        ".filter(one => one.textContent === '10 s').map(one => one.x.baseVal[0].value / 10)"
    )
    at = 0.0
    for (_, told), (_, left, width) in zip(bars, drawn, strict=True):
        assert left == pytest.approx(at, abs=0.1)
        assert width == pytest.approx(max(0.6, float(told) * second), abs=0.1)
        at += float(told) * second
    for section, words in (("captures", shown), ("restores", explained)):
        ((parts, total),) = re.findall(r"steps +(.+); together ([\d.]+) s", words)
        page_words = tab.ask(f"document.querySelector('#{section}').textContent")
        assert f"together {total} s: {parts[:90]}" in page_words


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", str(out / ".doctrees")]
    subprocess.run([*command, str(ROOT / "docs"), str(out)], check=True, capture_output=True)
    return out


def test_the_documentation(tab: browser.Tab, site: pathlib.Path, pictures: pathlib.Path) -> None:
    """No page is wider than a telephone, complains, or asks anybody for anything."""
    found = []
    for file in sorted(site.rglob("*.html")):
        name = file.relative_to(site).with_suffix("").as_posix()
        tab.open(file, width=400)
        outside = [one for one in tab.requests if not one.startswith(("file:", "data:"))]
        found += [f"{name}: {words}" for words in (*tab.problems, *outside)]
        found += [f"{name}: {words}" for words in wrong(tab, "overflow", "charts", "contrast")]
        tab.show(width=1280, dark=True)
        found += [f"{name}, dark: {words}" for words in wrong(tab, "overflow", "contrast")]
    assert found == []
    tab.open(site / "guides" / "how-it-works.html", width=400)
    assert tab.ask("document.querySelector('svg.how').getBoundingClientRect().width") >= 700
    tab.picture(pictures / "how-it-works-400.png")
