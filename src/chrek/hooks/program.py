"""How a hook runs: its options, its connection, its output and its exit code.

What a hook has to say stands on stdout; the last line says what to do and is also the pod's
termination message, which `kubectl describe` shows when the log is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from chrek import errors
from chrek.checks import report, settings
from chrek.kube import workstation

DIRECTORY = pathlib.Path("/etc/chrek")
CRDS = pathlib.Path("/etc/chrek-crds")
TERMINATION_LOG = pathlib.Path(os.environ.get("CHREK_TERMINATION_LOG", "/dev/termination-log"))
TERMINATION_BYTES = 4096
"""What Kubernetes keeps of it."""

FAILED_CHECKS = errors.ChrekError.exit_code


@dataclasses.dataclass(frozen=True)
class Context:
    """What a hook works with.

    Attributes:
        cluster: the connection.
        config: names and wishes of the release.
        directory: where the chart's files for hooks are.
    """

    cluster: workstation.Cluster
    config: settings.ReleaseConfig
    directory: pathlib.Path

    def agent_pod(self) -> dict[str, Any] | None:
        """The agent's pod as the chart renders it; none when the release has no agent."""
        return settings.load_pod(self.directory / "agent-pod.yaml")


Hook = Callable[[Context], Sequence[report.Outcome]]


def command(hook: Hook, *, title: str, again: str) -> click.Command:
    """The program of a hook.

    Args:
        hook: does the work and answers with what it found.
        title: first word of the last line.
        again: what a person runs once the failures are dealt with; `{release}` and `{namespace}`
            are filled in.
    """

    @click.command(help=title)
    @click.option(
        "--directory",
        type=click.Path(path_type=pathlib.Path),
        default=DIRECTORY,
        show_default=True,
        help="Where release.yaml and agent-pod.yaml are.",
    )
    def run(directory: pathlib.Path) -> None:
        with_errors(title, lambda: _run(hook, directory, title=title, again=again))

    return run


def _run(hook: Hook, directory: pathlib.Path, *, title: str, again: str) -> int:
    config = settings.load(directory / "release.yaml")
    context = Context(workstation.connect(), config, directory)
    outcomes = hook(context)
    for line in report.lines(outcomes):
        print(line)
    repeat = again.format(release=config.helmRelease, namespace=config.namespace)
    conclude(f"{title}: {report.verdict(outcomes, again=repeat)}")
    return FAILED_CHECKS if report.failures(outcomes) else 0


def with_errors(title: str, action: Callable[[], int]) -> None:
    """Run an action, turn an error of ours into a last line, and exit."""
    try:
        code = action()
    except errors.ChrekError as err:
        conclude(f"{title}: {err}")
        code = err.exit_code
    sys.exit(code)


def own_pod() -> dict[str, Any] | None:
    """Reference to this program's own pod, for what is to go with it; none outside one."""
    name, uid = os.environ.get("POD_NAME"), os.environ.get("POD_UID")
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid} if name and uid else None


def conclude(line: str) -> None:
    """Print the last line and leave it as the termination message."""
    print(line, flush=True)
    # Outside a pod there is none; the log has the line.
    with contextlib.suppress(OSError):
        TERMINATION_LOG.write_bytes(line.encode()[:TERMINATION_BYTES])
