"""What `scripts/bench install` measures: helm's commands, and what hooks add to them.

Each round installs the chart with its hooks, tests it, upgrades it with other values, uninstalls
it, and installs it once more without hooks: what helm and the agents need by themselves.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from showcase import cluster, commands, machine, setup

Object = dict[str, Any]

NAMESPACE = "chrek-bench-install"
LIMITS = {"agents_ready_seconds": 60.0, "hooks_seconds": 20.0}
"""At most so much for an installation whose images are on the nodes."""
POLL_SECONDS = 0.1
GONE_SECONDS = 180.0


class Watch:
    """Sees hook Jobs come and go, and agents get ready, while helm runs."""

    def __init__(self, live: cluster.Cluster) -> None:
        self._live = live
        self._begin = time.monotonic()
        self._seen: dict[str, tuple[float, float]] = {}
        self.agents_ready_seconds: float | None = None

    def look(self) -> None:
        now = time.monotonic()
        for job in self._live.items(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"):
            first, _ = self._seen.get(job["metadata"]["name"], (now, now))
            self._seen[job["metadata"]["name"]] = (first, now)
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{setup.RELEASE}-agent"
        status = (self._live.get(path) or {}).get("status") or {}
        wanted = status.get("desiredNumberScheduled", 0)
        if self.agents_ready_seconds is None and 0 < wanted == status.get("numberReady", 0):
            self.agents_ready_seconds = now - self._begin

    def hooks(self) -> dict[str, float]:
        """Seconds from when a hook's Job was made to when helm removed it, by hook."""
        return {
            name.removeprefix(f"{setup.RELEASE}-"): last - first + POLL_SECONDS
            for name, (first, last) in self._seen.items()
        }


def timed(live: cluster.Cluster, *argv: str) -> tuple[float, Watch]:
    """Run helm and watch; seconds and what was seen."""
    watch = Watch(live)
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        done = pool.submit(live.helm, *argv, f"--namespace={NAMESPACE}", "--timeout=5m")
        while not done.done():
            watch.look()
            time.sleep(POLL_SECONDS)
    done.result()
    return time.monotonic() - begin, watch


def measure(live: cluster.Cluster, *, repeat: int) -> Object:
    """All figures; `LIMITS` are compared with the medians."""
    rounds = [_round(live, number + 1, repeat) for number in range(repeat)]
    return {
        "what": "install",
        "machine": machine.facts(live),
        "repeat": repeat,
        "figures": summary(rounds),
        "rounds": rounds,
    }


def summary(rounds: Sequence[Mapping[str, Any]]) -> Object:
    """Medians of the rounds, the limits, and whether they are kept."""
    keys = [key for key, value in rounds[0].items() if isinstance(value, float)]
    found: Object = {key: round(statistics.median(each[key] for each in rounds), 2) for key in keys}
    found["hooks_of_install_without"] = round(
        found["install_seconds"] / found["without_hooks_seconds"], 2
    )
    for key, limit in LIMITS.items():
        found[f"{key}_limit"] = limit
        found[f"{key}_kept"] = found[key] <= limit
    return found


def _round(live: cluster.Cluster, number: int, repeat: int) -> Object:
    commands.say(f"round {number} of {repeat}")
    chart = [setup.RELEASE, str(setup.CHART), "--set=storage.pvc.size=1Gi", *setup.chart_images()]
    with _namespace(live):
        seconds, watch = timed(live, "install", *chart)
        found: Object = {
            "install_seconds": seconds,
            "agents_ready_seconds": _ready(watch),
            "hooks_seconds": sum(watch.hooks().values()),
            "hooks": watch.hooks(),
        }
        found["test_seconds"], _ = timed(live, "test", setup.RELEASE)
        found["upgrade_seconds"], watch = timed(
            live, "upgrade", *chart, "--set=agent.logLevel=debug"
        )
        found["upgrade_hooks"] = watch.hooks()
        found["uninstall_seconds"], watch = timed(live, "uninstall", setup.RELEASE, "--wait")
        found["uninstall_hooks"] = watch.hooks()
    with _namespace(live):
        without = ["--set=hooks.enabled=false", "--wait"]
        found["without_hooks_seconds"], watch = timed(live, "install", *chart, *without)
        found["without_hooks_agents_ready_seconds"] = _ready(watch)
        live.helm("uninstall", setup.RELEASE, f"--namespace={NAMESPACE}", "--wait")
    return found


def _ready(watch: Watch) -> float:
    if watch.agents_ready_seconds is None:
        # The last of them was ready between the last look and helm's end.
        watch.look()
    return watch.agents_ready_seconds or float("inf")


@contextlib.contextmanager
def _namespace(live: cluster.Cluster) -> Iterator[None]:
    _gone(live)
    live.kubectl("create", "namespace", NAMESPACE)
    try:
        yield
    finally:
        live.helm("uninstall", setup.RELEASE, f"--namespace={NAMESPACE}", check=False)
        _gone(live)


def _gone(live: cluster.Cluster) -> None:
    live.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")
    path = f"/api/v1/namespaces/{NAMESPACE}"
    left: Callable[[], str] = lambda: f"namespace {NAMESPACE} is still there"  # noqa: E731
    cluster.wait_until(lambda: live.get(path) is None, left, timeout=GONE_SECONDS)
