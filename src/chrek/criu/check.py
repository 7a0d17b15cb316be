"""Whether CRIU can work on this kernel, asked the way dumps and restores are made.

Program, loader and libraries come as file descriptors, through chrek-enter and the service; only
the container to enter is the agent's own. Source: `criu check`, criu/cr-check.c of CRIU 4.2.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
import time

from chrek.criu import messages_pb2 as pb
from chrek.criu import service

LOG_NAME = "check.log"


class _Service(service.Service):
    def check(self) -> None:
        request = pb.Request(type=pb.CHECK, opts=self._options())
        self._request(request, lambda *_: None, "check")


def check(folder: pathlib.Path, *, seconds: float) -> None:
    """Have CRIU look at what it needs of the kernel; it tries some of it with processes of its own.

    Args:
        folder: where its log may lie meanwhile.
        seconds: after which it is ended.

    Raises:
        CriuError: the kernel or the agent's privileges do not suffice; CRIU's words are in it.
        ToolError: CRIU or chrek-enter is not there.
        OSError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        images_fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, images_fd)
        pidfd = os.pidfd_open(os.getpid())
        stack.callback(os.close, pidfd)
        deadline = time.monotonic() + seconds
        made = _Service(pidfd, images_fd, log_path=place / LOG_NAME, deadline=deadline)
        with made:
            made.check()
