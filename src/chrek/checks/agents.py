"""What agents say of themselves: each answers `GET /preflight` with the checks of its own node.

An answer is a JSON object like `Preflight`. How an agent is reached is up to the program: hooks ask
its pod's address, a workstation asks through the API server.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http.client
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec

from chrek import errors
from chrek.checks import nodes, report

PATH = "/preflight"
PORT_NAME = "http"
TIMEOUT_SECONDS = 5.0
PARALLEL = 64
"""Agents that are asked at once: a hundred that are silent must not take minutes."""
MOST_BYTES = 1 << 20
FULL_TABLES = 4
"""Nodes of which every check is a line; of more nodes only what is not as it should be."""

Object = dict[str, Any]
Reader = Callable[[Object], bytes]
"""Takes an agent's pod and answers with what the agent says; raises `ChrekError` when it cannot."""


class Check(msgspec.Struct, frozen=True):
    """A check that an agent made of its node."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str = ""
    hint: str = ""


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says; fields of a newer one are not looked at."""

    node: str
    ready: bool
    version: str = ""
    problems: list[str] = []
    """Why it is not ready."""
    captures: int = 0
    """Under way, or waiting for their turn."""
    restores: int = 0
    checks: list[Check] = []

    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.status == "fail"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """An agent that was asked.

    Attributes:
        preflight: what it says; none when it cannot be read.
        error: why it cannot.
        silent: it answers, but is of a version that has no checks.
    """

    preflight: Preflight | None = None
    error: str = ""
    silent: bool = False

    def why(self) -> tuple[str, str]:
        """Why the agent is not ready, and what to do; empty when it does not say."""
        if self.preflight is None:
            return "", ""
        failed = self.preflight.failed()
        if not failed:
            return "; ".join(self.preflight.problems), ""
        hints = dict.fromkeys(check.hint for check in failed if check.hint)
        return "; ".join(f"{c.name}: {c.detail}" for c in failed), "; ".join(hints)

    def summary(self) -> str:
        """How many checks there are and how many passed; empty when that is not known."""
        checks = self.preflight.checks if self.preflight else []
        good = sum(check.status == "ok" for check in checks)
        return f"{good} of {len(checks)} checks passed" if checks else ""


def runs(pod: Object) -> bool:
    """Whether an agent's pod can be asked: it has an address and its process is there."""
    status = pod.get("status") or {}
    return bool(status.get("podIP")) and status.get("phase") == "Running"


def port(pod: Object, default: int) -> int:
    """Where an agent answers: as its pod says, for one of an older release may differ."""
    for container in pod["spec"].get("containers") or []:
        for one in container.get("ports") or []:
            if one.get("name") == PORT_NAME:
                return int(one["containerPort"])
    return default


def direct(pod: Object, default_port: int) -> bytes:
    """Ask an agent at the address of its pod.

    Args:
        pod: the agent's.
        default_port: where it answers if its pod does not say.

    Raises:
        ApiError: it does not answer, or not as it should; with the status of the answer.
    """
    address, number = str(pod["status"]["podIP"]), port(pod, default_port)
    connection = http.client.HTTPConnection(address, number, timeout=TIMEOUT_SECONDS)
    where = f"http://{f'[{address}]' if ':' in address else address}:{number}{PATH}"
    try:
        with contextlib.closing(connection):
            connection.request("GET", PATH)
            answer = connection.getresponse()
            body = answer.read(MOST_BYTES)
    except (OSError, http.client.HTTPException) as err:
        raise errors.ApiError(f"{where}: {str(err) or type(err).__name__}") from err
    if answer.status != 200:
        raise errors.ApiError(f"{where}: HTTP {answer.status}", status=answer.status)
    return body


def read(pods: Iterable[Object], reader: Reader, *, parallel: int = PARALLEL) -> dict[str, Answer]:
    """Ask agents, all at the same time.

    Args:
        pods: of agents that run.
        reader: asks one.
        parallel: how many are asked at once.

    Returns:
        Name of the pod -> its answer.
    """
    by_name = {str(pod["metadata"]["name"]): pod for pod in pods}
    if not by_name:
        return {}
    with concurrent.futures.ThreadPoolExecutor(min(parallel, len(by_name))) as pool:
        found = pool.map(lambda pod: _asked(pod, reader), by_name.values())
        return dict(zip(by_name, found, strict=True))


def table(node: str, answer: Answer) -> list[report.Outcome]:
    """A node's checks, a line each.

    One that failed keeps the agent from being ready: the node's own line says it, and whether that
    is too much is decided for all nodes together.
    """
    if answer.preflight is None:
        return [_unread(f"{node}/preflight", answer)]
    return [
        _outcome(f"{node}/{check.name}", check, check.detail)
        for check in answer.preflight.checks
        if check.status != "fail"
    ]


def merged(answers: Mapping[str, Answer]) -> list[report.Outcome]:
    """What is not as it should be on many nodes: a line for each check, whichever node it is.

    Args:
        answers: by node.
    """
    rows: list[report.Outcome] = []
    mute = [node for node, answer in answers.items() if answer.silent]
    if mute:
        rows.append(_unread("preflight", Answer(silent=True), f"{nodes.named(mute)}: "))
    lost = {node: a.error for node, a in answers.items() if a.preflight is None and not a.silent}
    if lost:
        rows.append(_unread("preflight", Answer(error=_told(lost))))
    warned: dict[str, dict[str, Check]] = {}
    for node, answer in answers.items():
        for check in answer.preflight.checks if answer.preflight else []:
            if check.status == "warn":
                warned.setdefault(check.name, {})[node] = check
    for name, by_node in sorted(warned.items()):
        first = next(iter(by_node.values()))
        text = _told({node: check.detail for node, check in by_node.items()})
        rows.append(_outcome(name, first, text))
    return rows


def _asked(pod: Object, reader: Reader) -> Answer:
    try:
        return Answer(msgspec.json.decode(reader(pod), type=Preflight))
    except errors.ApiError as err:
        return Answer(error=err.message, silent=err.status == 404)
    except errors.ChrekError as err:
        return Answer(error=err.message)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        return Answer(error=f"{PATH} cannot be understood: {err}")


def _told(texts: Mapping[str, str]) -> str:
    """Nodes with what is said of them; once where it is the same."""
    by_text: dict[str, list[str]] = {}
    for node, text in texts.items():
        by_text.setdefault(text, []).append(node)
    parts = [f"{nodes.named(found)}: {text}" for text, found in by_text.items()]
    left = sum(len(found) for found in list(by_text.values())[nodes.NAMED :])
    more = f"; and {left} more nodes" if left else ""
    return "; ".join(parts[: nodes.NAMED]) + more


def _outcome(name: str, check: Check, detail: str) -> report.Outcome:
    status = report.Status.WARNING if check.status == "warn" else report.Status.OK
    return report.Outcome(name, status, detail, check.hint)


def _unread(name: str, answer: Answer, where: str = "") -> report.Outcome:
    if answer.silent:
        return report.ok(name, f"{where}an older agent, which does not tell of its node")
    return report.warning(
        name,
        f"cannot be read: {answer.error}",
        f"if a NetworkPolicy or a mesh is in the way, let hooks reach port {PORT_NAME} of agents; "
        "restores do not need it",
    )
