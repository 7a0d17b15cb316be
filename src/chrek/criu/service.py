"""`criu swrk` inside a container: start it, send one request, answer its notifications.

CRIU joins every namespace of the container before it is started, so what it dumps or restores has
PID 1's own namespaces. It is the chrek image's CRIU nevertheless: program, loader, libraries and
images are file descriptors opened here; the loader reads no cache and no preload file, the plugin
directory is empty, and no configuration file is read.
Source: https://criu.org/RPC, criu/cr-service.c of CRIU 4.2.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from google.protobuf import message

from chrek import errors, names, process, procfs
from chrek.criu import messages_pb2 as pb

LOG_LEVEL = 3
GHOST_LIMIT_BYTES = 512 << 20
"""Deleted files that are still open go into the images up to this size each."""

ENVIRONMENT = {
    "PATH": "/dev/null",
    # libgnutls, which CRIU links, must not read the container's configuration.
    "GNUTLS_NO_IMPLICIT_INIT": "1",
    "GNUTLS_SYSTEM_PRIORITY_FILE": "/dev/null",
}

Notified = Callable[[str, int], None]
"""Called with a notification's name and pid; raising refuses it, and CRIU undoes what it did."""


def enter_argv(
    pidfd: int,
    *,
    cgroup_fds: Sequence[int] = (),
    own_ipc: bool = False,
    last_pid: int | None = None,
    exec_fd: int | None = None,
    argv: Sequence[str] = (),
) -> list[str]:
    """Command line of chrek-enter: join a container, then run a program that is open here."""
    line = [str(process.LIBEXEC / "chrek-enter"), "--pidfd", str(pidfd)]
    for fd in cgroup_fds:
        line += ["--cgroup", str(fd)]
    if own_ipc:
        line += ["--own-ipc", "1"]
    if last_pid is not None:
        line += ["--last-pid", str(last_pid)]
    if exec_fd is not None:
        line += ["--exec-fd", str(exec_fd), "--", *argv]
    return line


def confined_argv(
    pidfd: int, argv: Sequence[str], *, cgroup_fds: Sequence[int] = (), label: str = ""
) -> list[str]:
    """Command line of chrek-enter: run a program of a container as its PID 1 would.

    Args:
        label: what is written to the program's attr/exec; empty where no such module is in force.
    """
    line = [str(process.LIBEXEC / "chrek-enter"), "--confined", str(pidfd)]
    for fd in cgroup_fds:
        line += ["--cgroup", str(fd)]
    return [*line, *(["--label", label] if label else []), "--", *argv]


def set_last_pid(pidfd: int, last_pid: int) -> None:
    """Make the next process of a container's PID namespace get `last_pid + 1`."""
    process.run(enter_argv(pidfd, last_pid=last_pid), pass_fds=[pidfd], timeout_seconds=10)


def seccomp_filters(pid: int) -> list[bytes]:
    """The seccomp filters of a process, oldest first, each an array of 8-byte instructions."""
    data = process.run(
        [str(process.LIBEXEC / "chrek-enter"), "--seccomp", str(pid)], timeout_seconds=10
    )
    count = int.from_bytes(data[:4], "little")
    at, filters = 4, []
    for _ in range(count):
        size = 8 * int.from_bytes(data[at : at + 4], "little")
        filters.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return filters


@contextlib.contextmanager
def _opened(path: pathlib.Path, flags: int) -> Iterator[int]:
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError as err:
        raise process.absent(path) from err
    try:
        yield fd
    finally:
        os.close(fd)


class Service:
    """One CRIU process, for one request.

    Use as a context manager; leaving it ends CRIU if it still runs.
    """

    def __init__(
        self,
        pidfd: int,
        images_fd: int,
        *,
        log_path: pathlib.Path,
        cgroup_fds: Sequence[int] = (),
        extra_fds: Sequence[int] = (),
        real_ids: tuple[int, int] | None = None,
        subreaper: int | None = None,
        own_ipc: bool = False,
        deadline: float,
    ) -> None:
        """Start CRIU in the container of the process behind `pidfd`.

        Args:
            images_fd: directory of the images, as the agent sees it.
            log_path: where CRIU's log appears (`images_fd` is its directory).
            cgroup_fds: `cgroup.procs` files to join first, open for writing.
            extra_fds: descriptors that requests refer to by number.
            real_ids: user and group whose resource limits CRIU reads: those of what it dumps.
            subreaper: of what it restores, the process (its pid in the container) that takes the
                daemons whose own parents are gone.
            own_ipc: stay out of the container's IPC namespace: CRIU then dumps what is in it.
            deadline: `time.monotonic()` after which CRIU is ended.
        """
        self._log_path = log_path
        self._images_fd = images_fd
        self._pidfd = pidfd
        self.deadline = deadline
        bundle = process.LIBEXEC / "criu"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        on_failure = contextlib.ExitStack()
        on_failure.callback(ours.close)
        with (
            on_failure,
            theirs,
            _opened(bundle / "ld.so", os.O_PATH) as loader,
            _opened(bundle / "criu", os.O_RDONLY) as program,
            _opened(bundle / "lib", os.O_RDONLY | os.O_DIRECTORY) as libraries,
            _opened(bundle / "plugins", os.O_RDONLY | os.O_DIRECTORY) as plugins,
            _opened(process.LIBEXEC / "criu-shim.so", os.O_RDONLY) as preload,
        ):
            environment = dict(ENVIRONMENT)
            if real_ids is not None:
                environment["CHREK_REAL_IDS"] = "{}:{}".format(*real_ids)
            if subreaper is not None:
                environment["CHREK_SUBREAPER"] = str(subreaper)
            argv = [
                *("criu-loader", "--inhibit-cache", "--argv0", "criu"),
                *("--preload", f"/proc/self/fd/{preload}"),
                *("--library-path", f"/proc/self/fd/{libraries}"),
                *(f"/proc/self/fd/{program}", "--no-default-config"),
                *("--libdir", f"/proc/self/fd/{plugins}"),
                *("swrk", str(theirs.fileno())),
            ]
            self._process = process.start(
                enter_argv(
                    pidfd, cgroup_fds=cgroup_fds, own_ipc=own_ipc, exec_fd=loader, argv=argv
                ),
                pass_fds=[
                    *(pidfd, images_fd, loader, program, libraries, plugins, preload),
                    theirs.fileno(),
                    *cgroup_fds,
                    *extra_fds,
                ],
                env=environment,
            )
            on_failure.pop_all()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        finally:
            if self._process.returncode:
                self._end_stragglers()
            if self._process.stderr:
                self._process.stderr.close()

    def dump(
        self,
        pid: int,
        notified: Notified,
        *,
        leave_running: bool = False,
        watched: Sequence[str] = (),
        external: Sequence[str] = (),
    ) -> None:
        """Dump the tree below `pid` (its pid in the container).

        The tree ends when this returns or, left running, runs on since the last notification.

        Args:
            watched: paths that inotify descriptors watch and CRIU cannot find by itself.
            external: files that CRIU notes and does not look at, by its names for them.

        Raises:
            CriuError: CRIU failed; the tree continues.
        """
        opts = self._options()
        opts.pid = pid
        opts.tcp_skip_in_flight = True
        opts.leave_running = leave_running
        opts.irmap_scan_paths.extend(watched)
        opts.external.extend(external)
        self._request(pb.Request(type=pb.DUMP, opts=opts), notified, "dump")

    def restore(
        self,
        notified: Notified,
        *,
        inherit: Mapping[str, int],
        ipc: bool = False,
    ) -> None:
        """Restore the images; the tree's root becomes a child of the container's PID 1.

        Args:
            notified: called at `post-restore` with everything restored and nothing running yet.
            inherit: CRIU's name of a descriptor (`pipe:[123]`) -> our descriptor for it.
            ipc: the images hold an IPC namespace, whose objects go into PID 1's.

        Raises:
            CriuError: CRIU failed; it has ended whatever it had restored.
        """
        opts = self._options()
        opts.inherit_fd.extend(pb.InheritFd(key=key, fd=fd) for key, fd in inherit.items())
        if ipc:
            # CRIU makes a namespace where it was in another one at the dump; the tree's root then
            # leaves that one for PID 1's, before it makes the objects.
            opts.join_ns.add(ns="ipc", ns_file="1")
        self._request(pb.Request(type=pb.RESTORE, opts=opts), notified, "restore")
        self._process.wait(timeout=max(1.0, self.deadline - time.monotonic()))

    def _options(self) -> pb.Opts:
        return pb.Opts(
            images_dir_fd=-1,
            images_dir=f"/proc/self/fd/{self._images_fd}",
            log_file=self._log_path.name,
            log_level=LOG_LEVEL,
            notify_scripts=True,
            tcp_established=True,
            file_locks=True,
            link_remap=True,
            ghost_limit=GHOST_LIMIT_BYTES,
            ext_unix_sk=True,
            manage_cgroups_mode=pb.IGNORE,
            # Both ends of what survives are frozen; the rest is closed. There is nothing to lock.
            network_lock=pb.SKIP,
            timeout=max(1, int(self.deadline - time.monotonic())),
        )

    def _request(self, request: pb.Request, notified: Notified, action: str) -> None:
        refused: BaseException | None = None
        self._send(request)
        while True:
            response = self._receive(action, refused)
            if response.type != pb.NOTIFY:
                break
            try:
                notified(response.notify.script, response.notify.pid)
            except BaseException as err:
                refused = err
                self._send(pb.Request(type=pb.NOTIFY, notify_success=False))
            else:
                self._send(pb.Request(type=pb.NOTIFY, notify_success=True))
        if refused is not None:
            raise refused
        if not response.success:
            raise self._failure(action, response.cr_errmsg)

    def _send(self, request: pb.Request) -> None:
        with contextlib.suppress(OSError):  # The reason is in the log; _receive finds it.
            self._socket.send(request.SerializeToString())

    def _receive(self, action: str, refused: BaseException | None) -> pb.Response:
        if not self._wait():
            self._process.send_signal(signal.SIGKILL)
            timeout = (
                names.Reason.DUMP_TIMEOUT if action == "dump" else names.Reason.RESTORE_TIMEOUT
            )
            raise errors.CriuError(
                f"criu {action} did not end in time",
                reason=timeout,
                hint="raise agent.dumpTimeoutSeconds or agent.restoreTimeoutSeconds",
            )
        try:
            data = self._socket.recv(1 << 20, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionError):
            data = b""
        if not data:
            self._process.wait()
            if refused is not None:
                raise refused
            raise self._failure(action, "")
        try:
            response = pb.Response()
            response.ParseFromString(data)
        except message.DecodeError as err:
            raise errors.CriuError(f"criu {action} sent no valid message: {err}") from err
        return response

    def _wait(self) -> bool:
        """Wait for a message or for CRIU's end; False when time is up.

        The socket alone does not tell of the end: a child that outlives CRIU keeps it open.
        """
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(ProcessLookupError):
                ended = os.pidfd_open(self._process.pid)
                stack.callback(os.close, ended)
                poller.register(ended, select.POLLIN)
            left = self.deadline - time.monotonic()
            return bool(poller.poll(max(1, int(1000 * left))))

    def _end_stragglers(self) -> None:
        """End what a CRIU that was killed left in the container, such as stopped test children.

        They are known by their program, the loader of this image: no container can run that.
        """
        loader = (process.LIBEXEC / "criu" / "ld.so").stat()
        info = pathlib.Path(f"/proc/self/fdinfo/{self._pidfd}").read_text()
        pid = next(int(line.split()[1]) for line in info.splitlines() if line.startswith("Pid:"))
        if pid <= 0:
            return
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for member in procfs.in_pid_namespace(pid):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                    if os.path.samestat(os.stat(f"/proc/{member}/exe"), loader):
                        os.kill(member, signal.SIGKILL)

    def _failure(self, action: str, detail: str) -> errors.CriuError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        stderr = ""
        if self._process.poll() is not None and self._process.stderr:
            # A child that outlives CRIU may hold the other end: take what is there.
            os.set_blocking(self._process.stderr.fileno(), False)
            stderr = (self._process.stderr.read() or b"").decode(errors="replace").strip()
        log = log_extract(self._log_path)
        last = _first_error(log) or detail.strip() or stderr.rpartition("\n")[2]
        code = self._process.poll()
        what = process.describe(code) if code is not None else "failed"
        return errors.CriuError(
            f"criu {action} {what}: {last or 'no message'}",
            argv=list(self._process.args) if isinstance(self._process.args, list) else [],
            returncode=code,
            log=log or stderr,
        )


def log_extract(path: pathlib.Path) -> str:
    """The error lines of a CRIU log with five lines before each, and its last ten lines."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    wanted = set(range(max(0, len(lines) - 10), len(lines)))
    for number, line in enumerate(lines):
        if "Error" in line:
            wanted.update(range(max(0, number - 5), number + 1))
    return "\n".join(lines[number] for number in sorted(wanted))


_HARMLESS = ("criu/tun.c", "RLIMIT_NOFILE for self")
"""Errors that CRIU logs while it asks the kernel for features, and goes on."""


def _first_error(log: str) -> str:
    """The line that says what went wrong; what follows it is consequence."""
    for line in log.splitlines():
        if "Error" in line and not any(text in line for text in _HARMLESS):
            return re.sub(r"^\([\d.]+\)\s*", "", line).strip()
    return ""
