"""Stores as command lines name them, and the options that say how each is reached.

A store is a directory laid out like the volume, a bucket, a repository, or the release's own. What
a server sends, or is sent, lies in a directory of this command alone on its way: never in the cache
of a node, which is its agent's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chrek import errors, storage

if TYPE_CHECKING:
    import types

    from chrek import config

OWN = "store"
"""What the release's own store is called."""
AGENT_CONFIG = pathlib.Path("/etc/chrek/agent.yaml")
TRANSFER_SECONDS = 24 * 3600.0
"""The longest time for one artifact to a server or from it."""
NOBODY = "0" * 16
"""An identity hash that is never anybody's."""

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """A store as the command line names it.

    Attributes:
        place: the argument.
        prefix: of its options.
        credentials: directory with the files of the Secret; None: what the environment says.
        ca: PEM file of further certificate authorities.
        plain_http: whether there is no TLS.
        key: directory with the files of the Secret with the key; None: it is not encrypted.
        namespace: whose part of the store; empty for the release's own namespace.
    """

    place: str
    prefix: str
    credentials: pathlib.Path | None
    ca: pathlib.Path | None
    plain_http: bool
    key: pathlib.Path | None
    namespace: str

    @classmethod
    def of(cls, place: str, options: dict[str, Any], prefix: str = "") -> End:
        """Pick an end's options."""
        start = prefix.replace("-", "_")
        fields = [one.name for one in dataclasses.fields(cls)[2:]]
        return cls(place=place, prefix=prefix, **{name: options[start + name] for name in fields})

    def refuse_options(self, why: str) -> None:
        """Refuse options that mean nothing here.

        Raises:
            InputError: one was given.
        """
        for name in ("credentials", "ca", "plain_http", "key"):
            if getattr(self, name):
                option = f"--{self.prefix}{name.replace('_', '-')}"
                raise errors.InputError(f"{option}: {why}", hint="leave it out")


def options(prefix: str = "", whose: str = "the store") -> Callable[[CommandT], CommandT]:
    folder = click.Path(path_type=pathlib.Path, exists=True, file_okay=False)
    file = click.Path(path_type=pathlib.Path, exists=True, dir_okay=False)
    made = [
        click.option(
            f"--{prefix}credentials",
            type=folder,
            metavar="DIR",
            help=f"Files AWS_* or .dockerconfigjson for {whose}, as in the chart's Secrets.",
        ),
        click.option(
            f"--{prefix}ca", type=file, metavar="FILE", help=f"PEM: who vouches for {whose}."
        ),
        click.option(f"--{prefix}plain-http", is_flag=True, help=f"Reach {whose} without TLS."),
        click.option(
            f"--{prefix}key",
            type=folder,
            metavar="DIR",
            help=f"File `key` that {whose} is encrypted with, as in the chart's Secret.",
        ),
        click.option(
            f"--{prefix}namespace",
            default="",
            metavar="NAMESPACE",
            help=f"Whose part of {whose}, if not that of the release's own namespace.",
        ),
    ]

    def decorate(command: CommandT) -> CommandT:
        for option in reversed(made):
            command = option(command)
        return command

    return decorate


def common_options(command: CommandT) -> CommandT:
    config = click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=pathlib.Path),
        default=AGENT_CONFIG,
        show_default=True,
        metavar="FILE",
        help="AgentConfig with the store that is called `store`.",
    )
    scratch = click.option(
        "--scratch",
        type=click.Path(path_type=pathlib.Path),
        default=lambda: os.environ.get("TMPDIR") or "/var/tmp",  # noqa: S108 - a directory is made in it
        metavar="DIR",
        help="Where what comes from a server or goes there lies meanwhile, one artifact at a time; "
        "by default $TMPDIR or /var/tmp.",
    )
    return config(scratch(command))


@contextlib.contextmanager
def opened(
    end: End,
    options: dict[str, Any],
    *,
    reads: bool,
    on_bytes: Callable[[str, int], None] = lambda *_: None,
) -> Iterator[storage.AnyStore]:
    """Open a store.

    Args:
        end: which.
        options: of the command: `config_path` and `scratch` count.
        reads: whether nothing is to be written into it.
        on_bytes: told of what comes from a server or goes to one: see `storage.Storage`.

    Raises:
        InputError, ConfigError: it is described wrongly.
    """
    import msgspec

    from chrek import config, storage

    settings, own = _settings(end, options["config_path"])
    with contextlib.ExitStack() as stack:
        if settings.type != "pvc":
            # Nothing is kept there for another artifact to find.
            scratch = stack.enter_context(_scratch(options["scratch"]))
            cache = config.Cache(path=scratch, sizeBytes=0)
            settings = msgspec.structs.replace(settings, cache=cache)
            if end.key:
                _check_key(end, settings, reads=reads)
        found = storage.Storage(settings, own, transfer_seconds=TRANSFER_SECONDS, on_bytes=on_bytes)
        stack.callback(found.close)
        yield found.of(end.namespace)


@contextlib.contextmanager
def undone_by_signals() -> Iterator[None]:
    """While inside, what is half done is undone when the command is told to end."""
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN  # As it is below nohup.
    ]

    def end(number: int, _frame: types.FrameType | None) -> None:
        # Whoever presses Ctrl-C twice shall not keep it from clearing up.
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise SystemExit(128 + number)

    with contextlib.ExitStack() as stack:
        for number in numbers:
            stack.callback(signal.signal, number, signal.signal(number, end))
        yield


@contextlib.contextmanager
def _scratch(parent: pathlib.Path) -> Iterator[str]:
    """A directory that goes with all that is in it."""
    try:
        made = tempfile.TemporaryDirectory(prefix="chrek-", dir=parent)
    except OSError as err:
        raise errors.InputError(
            f"{parent}: {err.strerror}", hint="name a directory that can be written with --scratch"
        ) from err
    with made as path:
        yield path


def _settings(end: End, config_path: pathlib.Path) -> tuple[config.Storage, str]:
    """Where a store is, and the release's own namespace, empty where nobody knows."""
    from chrek import config

    credentials, ca, key = (str(one or "") for one in (end.credentials, end.ca, end.key))
    encryption = config.Encryption(keyPath=key)
    if end.place == OWN:
        end.refuse_options(f"the configuration says it for `{OWN}`")
        settings = config.load(config_path, config.AgentConfig).storage
        return settings, os.environ.get("POD_NAMESPACE", "")
    if end.place.startswith("s3://"):
        bucket = config.S3(
            uri=end.place, plainHttp=end.plain_http, caBundlePath=ca, credentialsPath=credentials
        )
        return config.Storage(type="s3", s3=bucket, encryption=encryption), ""
    if end.place.startswith("oci://"):
        repository = config.Oci(
            uri=end.place, plainHttp=end.plain_http, caBundlePath=ca, credentialsPath=credentials
        )
        return config.Storage(type="oci", oci=repository, encryption=encryption), ""
    if end.place.startswith(("/", ".")):
        end.refuse_options("a directory needs none")
        return config.Storage(pvc=config.Pvc(basePath=end.place)), ""
    raise errors.InputError(
        f"{end.place!r} is no store",
        hint=f"write a directory with a leading / or ., s3://..., oci://... or `{OWN}`",
    )


def _check_key(end: End, settings: config.Storage, *, reads: bool) -> None:
    """Refuse a key for a store that is in use without one: it would be encrypted from then on.

    Raises:
        InputError: it is.
    """
    import msgspec

    from chrek import config, storage

    plain = msgspec.structs.replace(settings, encryption=config.Encryption())
    asked = storage.Storage(plain, "", transfer_seconds=TRANSFER_SECONDS)
    spaces = {"", end.namespace}
    try:
        found = [asked.of(space).artifacts(NOBODY if reads else "") for space in spaces]
    except errors.ChrekError:
        return  # It is encrypted. If it cannot be reached, whoever uses it says so.
    finally:
        asked.close()
    if reads or any(found):
        raise errors.InputError(
            f"--{end.prefix}key: {end.place} is not encrypted", hint="leave it out"
        )
