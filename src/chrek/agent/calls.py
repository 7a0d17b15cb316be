"""Quiesce and wake: a call into a worker around its capture and after its restore.

`spec.quiesce` and `spec.wake` of a DynamoCheckpoint: an HTTP POST to the pod, or a program in the
container. Neither can hold the agent up: time, and what is read of an answer, are bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from typing import Any

import aiohttp
import yarl

from chrek import errors, inside, peer

DEFAULT_TIMEOUT_SECONDS = 30
TAIL_BYTES = 512
_HEADER_BYTES = 8190


async def call(
    action: Mapping[str, Any] | None, *, pod_ip: str, caller: peer.Peer, reason: str
) -> None:
    """Make a call and wait for its success.

    Args:
        action: `http` or `exec`, and `timeoutSeconds`, as in the spec; None does nothing.
        pod_ip: address of the pod.
        caller: PID 1 of the container.
        reason: of the error that is raised.

    Raises:
        ToolError: it failed, was not answered in time, or is no call.
    """
    if not action:
        return
    seconds = float(action.get("timeoutSeconds") or DEFAULT_TIMEOUT_SECONDS)
    try:
        if action.get("http"):
            await _post(action["http"], pod_ip, seconds)
        else:
            command = [str(word) for word in (action.get("exec") or {})["command"]]
            await asyncio.to_thread(
                inside.run, caller.pid, caller.pidfd, command, timeout_seconds=seconds
            )
    except errors.ToolError as err:
        raise errors.ToolError(
            err.message,
            argv=err.argv,
            returncode=err.returncode,
            log=err.log,
            reason=reason,
        ) from err
    except (errors.ChrekError, OSError, KeyError, TypeError, ValueError) as err:
        raise errors.ToolError(f"the call cannot be made: {err!s}", reason=reason) from err


async def _post(target: Mapping[str, Any], pod_ip: str, seconds: float) -> None:
    address = ipaddress.ip_address(pod_ip)
    path, port = str(target["path"]), int(target["port"])
    where = f"POST port {port} {path}"
    if not path.startswith("/"):
        raise ValueError(f"path {path} does not begin with /")
    host = f"[{address}]" if address.version == 6 else str(address)
    as_written = path.isascii() and path.isprintable() and " " not in path
    url = yarl.URL(f"http://{host}:{port}{path}", encoded=as_written)
    timeout = aiohttp.ClientTimeout(total=seconds)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                max_line_size=_HEADER_BYTES,
                max_field_size=_HEADER_BYTES,
            ) as session,
            # A worker must not send the agent elsewhere.
            session.post(url, allow_redirects=False) as answer,
        ):
            if answer.status >= 400:
                text = (await answer.content.read(TAIL_BYTES)).decode(errors="replace").strip()
                raise errors.ToolError(f"{where}: status {answer.status}: {text}")
            # The answer's end, so that the worker has done what it says; it is not kept.
            async for _ in answer.content.iter_chunked(1 << 16):
                continue
    except TimeoutError as err:
        raise errors.ToolError(f"{where}: no answer after {seconds:g} seconds") from err
    except aiohttp.ClientError as err:
        raise errors.ToolError(f"{where}: {str(err)[:TAIL_BYTES]}") from err
