"""What a shell may offer for an argument: names that the cluster, kubeconfig or machine has.

A person waits for the answer with a key in the middle of a line, so that whatever goes wrong or
takes long gives no names, without a word. No Kubernetes client is imported where the kubeconfig has
a certificate or token; with a credential plugin the official one asks.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click import shell_completion

SECONDS = 2.0
"""For everything that one completion asks."""

_KINDS = ("deployment", "statefulset", "job", "pod")
_OFTEN = _KINDS[:2]
"""What is offered before anything is typed."""

Names = Callable[[tuple[str, str]], list[str]]
"""Gives the names of a kind's objects."""


def contexts(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Those of the kubeconfig."""
    from chrek.kube import glance

    return _bounded(lambda: _starting(glance.read(os.environ).contexts, incomplete))


def namespaces(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Those of the cluster; who may not list them gets those of the kubeconfig's contexts."""
    from chrek import errors
    from chrek.kube import glance

    def ask(names: Names) -> list[str]:
        try:
            return _starting(names(("v1", "namespaces")), incomplete)
        except errors.ApiError as err:
            if err.status != 403:
                raise
            known = glance.read(os.environ).contexts.values()
            return _starting((one.get("namespace", "") for one in known), incomplete)

    return _of_cluster(ctx, ask, everywhere=True)


def checkpoints(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """DynamoCheckpoints that are not named yet."""
    from chrek.cli import reading

    named = ctx.params.get(param.name or "")
    given = named if isinstance(named, tuple) else ()
    return _of_cluster(
        ctx, lambda names: _starting({*names(reading.CHECKPOINTS)} - {*given}, incomplete)
    )


def workloads(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """KIND/NAME of what runs pods."""
    return _of_cluster(ctx, lambda names: _workloads(names, incomplete))


def pods(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Pods, and KIND/NAME of what runs them."""
    return _of_cluster(ctx, lambda names: _pods(names, incomplete))


def pods_or_checkpoints(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The same, and DynamoCheckpoints: by their names alone, or behind what says that they are."""
    from chrek.cli import diff_command, reading

    kind, slash, _ = incomplete.rpartition("/")
    ours = kind.lower().partition(".")[0] in diff_command.KINDS

    def ask(names: Names) -> list[str]:
        found: list[str] = []
        if ours or not slash:
            named = _allowed(names, reading.CHECKPOINTS)
            found = _starting((f"{kind}{slash}{one}" for one in named), incomplete)
        return found if ours else found + _pods(names, incomplete)

    return _of_cluster(ctx, ask)


def programs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Programs that `chrek run` has started on this machine."""
    from chrek.cli import run_command

    state = pathlib.Path(ctx.params.get("state") or run_command.STATE).expanduser()
    # What is in their directories only root can see.
    return _bounded(
        lambda: _starting((one.name for one in state.iterdir() if one.is_dir()), incomplete)
    )


def files(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[shell_completion.CompletionItem[str]]:
    """Has the shell offer files."""
    from click import shell_completion

    return [shell_completion.CompletionItem(incomplete, type="file")]


def directories(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[shell_completion.CompletionItem[str]]:
    """Has the shell offer directories."""
    from click import shell_completion

    return [shell_completion.CompletionItem(incomplete, type="dir")]


def _pods(names: Names, incomplete: str) -> list[str]:
    from chrek.cli import reading

    found = [] if "/" in incomplete else _allowed(names, reading.PODS)
    return _starting(found, incomplete) + _workloads(names, incomplete)


def _workloads(names: Names, incomplete: str) -> list[str]:
    """KIND/NAME of all kinds that may be meant."""
    from chrek.cli import workload

    word, slash, _ = incomplete.partition("/")
    meant = [one for one in _KINDS if one.startswith(word)] if word else _OFTEN
    found: list[str] = []
    for one in [word] if slash else meant:
        kind, _ = workload.parse_reference(f"{one}/NAME")
        found += [f"{one}/{name}" for name in _allowed(names, workload.resource(kind))]
    return _starting(found, incomplete)


def _allowed(names: Names, kind: tuple[str, str]) -> list[str]:
    """The names of a kind's objects, none where one may not look: of others they are given."""
    from chrek import errors

    try:
        return names(kind)
    except errors.ApiError as err:
        if err.status not in (403, 404):
            raise
        return []


def _starting(found: Iterable[str], incomplete: str) -> list[str]:
    return sorted({one for one in found if one and one.startswith(incomplete)})


def _bounded(ask: Callable[[], list[str]]) -> list[str]:
    """What a question gives in time; nothing when it fails."""
    found: list[str] = []

    def run() -> None:
        # Whatever it is, there is nobody to tell, and the line is still to be typed on.
        with contextlib.suppress(Exception):
            found.extend(ask())

    # A thread, because nothing else ends a look-up of an address or a credential plugin.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return [] if thread.is_alive() else found


def _of_cluster(
    ctx: click.Context, ask: Callable[[Names], list[str]], *, everywhere: bool = False
) -> list[str]:
    """What a question to the API server gives, in time."""

    def run() -> list[str]:
        with _asking(ctx, everywhere=everywhere) as names:
            return ask(names)

    return _bounded(run)


@contextlib.contextmanager
def _asking(ctx: click.Context, *, everywhere: bool) -> Iterator[Names]:
    """Gives what asks the API server that the options typed so far mean."""
    from chrek.kube import glance

    context = ctx.params.get("context")
    config = glance.read(os.environ)
    known = glance.plain(config, context, os.environ)
    if known is None:
        with _official(ctx, everywhere=everywhere) as names:
            yield names
        return
    namespace = "" if everywhere else ctx.params.get("namespace") or known.namespace
    server = glance.Server(known, seconds=SECONDS)
    try:
        yield lambda kind: server.names(kind, namespace)
    finally:
        server.close()


@contextlib.contextmanager
def _official(ctx: click.Context, *, everywhere: bool) -> Iterator[Names]:
    from chrek.kube import workstation

    context = ctx.params.get("context")
    cluster = workstation.connect(context=context).impatient(SECONDS, parallel=1)
    named = ctx.params.get("namespace") or workstation.default_namespace(context)
    namespace = "" if everywhere else named
    yield lambda kind: [
        str(item["metadata"]["name"]) for item in cluster.find(workstation.path(*kind, namespace))
    ]
