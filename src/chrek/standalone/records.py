"""What is known of a program by its name: how it was started, and where its things are.

<state>/<name>/run.json     how it was started last; only root can read it
               lock         held while it runs
               control.sock where `chrek dump` asks `chrek run`
               upper        what it changed of the root file system, until its next start
               chrek        chrek-init, and the socket where it asks
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from chrek import errors, rootfd
from chrek import variant as variants

STATE = pathlib.Path("/var/lib/chrek/standalone")
STORE = pathlib.Path("/var/lib/chrek/checkpoints")
RECORD = "run.json"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9._]{0,61}[a-z0-9])?")
_SESSION = re.compile(
    r"_|PWD|OLDPWD|SHLVL|TERM.*|COLORTERM|COLUMNS|LINES|LS_COLORS|SSH_.*|XDG_.*|DBUS_.*|DISPLAY"
    r"|WAYLAND_.*|WINDOWID|XAUTHORITY|SUDO_.*|MAIL|TMUX.*|STY|VTE_.*|GPG_.*|INVOCATION_ID"
    r"|JOURNAL_STREAM|SYSTEMD_.*|LESS.*|HOSTNAME|PS1"
)
"""Variables of a login or a terminal: those of another one are no reason to start cold."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """How a program is started."""

    name: str
    command: list[str]
    cwd: str
    environment: dict[str, str]
    volumes: list[str]
    """Files and directories of the machine that it shares, for reading and writing."""
    store: str
    """Directory of the checkpoints."""
    own_network: bool = False

    @property
    def identity(self) -> str:
        """What its checkpoints are filed under: 16 hex digits.

        The command has its place in the variant and variables are compared one by one, so that a
        start that does not fit can say why.
        """
        return _hash(
            {
                "standalone": self.name,
                "cwd": self.cwd,
                "volumes": sorted(self.volumes),
                "ownNetwork": self.own_network,
            }
        )[:16]

    @property
    def variant(self) -> str:
        """Of its command, on this architecture."""
        return variants.name("", self.command)

    @property
    def compared(self) -> dict[str, str]:
        """Variable -> digest of its value, of those that belong to no session."""
        return {
            name: hashlib.blake2b(
                os.fsencode(value), key=self.identity.encode(), digest_size=16
            ).hexdigest()
            for name, value in sorted(self.environment.items())
            if not _SESSION.fullmatch(name)
        }


def _hash(found: Mapping[str, object]) -> str:
    return hashlib.sha256(msgspec.json.encode(found, order="sorted")).hexdigest()


def default_name(command: Sequence[str], cwd: str) -> str:
    """Such as `python3-1a2b3c`: the same for the same command in the same directory."""
    base = re.sub(r"[^a-z0-9]+", "-", pathlib.PurePath(command[0]).name.lower()).strip("-")[:40]
    digest = _hash({"command": [*command], "cwd": cwd})[:6]
    return f"{base}-{digest}" if base else digest


def check_name(name: str) -> str:
    """The name, if it is one.

    Raises:
        InputError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise errors.InputError(
            f"{name!r} is no name",
            hint="use up to 63 small letters, digits, `-`, `.` and `_`, a letter or digit first "
            "and last",
        )
    return name


def check_root() -> None:
    """Refuse to go on as somebody who can make no namespaces.

    Raises:
        UnsupportedError: says so.
    """
    if os.geteuid() != 0:
        raise errors.UnsupportedError(
            "not root: namespaces, mounts and CRIU need it", hint="use sudo"
        )


def check_store(path: pathlib.Path) -> None:
    """Refuse a store that others can write: what is in it is run as root.

    Raises:
        InputError: it is such a directory.
    """
    with contextlib.suppress(FileNotFoundError):
        about = path.stat()
        if about.st_uid != 0 or about.st_mode & 0o022:
            raise errors.InputError(
                f"{path} can be written by others than root, who runs what is in it",
                hint=f"chown root {path} && chmod 700 {path}, if you trust what is in it",
            )


def save(folder: pathlib.Path, run: Run) -> None:
    """Keep how a program is started."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        rootfd.put(fd, RECORD, msgspec.json.encode(run), mode=0o600)
    finally:
        os.close(fd)


def load(state: pathlib.Path, name: str) -> Run:
    """How a program was started last.

    Raises:
        InputError: no program of that name was, on this machine.
    """
    path = state / check_name(name) / RECORD
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except FileNotFoundError as err:
        known = sorted(one.parent.name for one in state.glob(f"*/{RECORD}"))
        raise errors.InputError(
            f"no program was started as {name}",
            hint=f"known are {', '.join(known)}" if known else "start one with chrek run",
        ) from err
    except (OSError, msgspec.DecodeError) as err:
        raise errors.InputError(f"{path}: {err}", hint="start it again with chrek run") from err


@contextlib.contextmanager
def taken(state: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """The folder of a program; while inside, nobody else runs one of that name.

    Raises:
        InputError: somebody does already.
    """
    folder = state / check_name(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise errors.InputError(
                f"{name} runs already", hint="give this one another --name"
            ) from err
        yield folder
    finally:
        os.close(fd)
