"""The process that `helm test` captures where there are GPUs: `counter`, with memory on one.

`GET /gpu` answers with the GPU's UUID, the digest of random bytes that are in its memory and
nowhere else, and with how often it was asked, a number that is there as well. A process that cannot
use a GPU serves nevertheless, and answers with the problem.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from typing import Any

from cuda.bindings import driver  # type: ignore[import-untyped]

from chrek.hooks import counter

BALLAST_BYTES = 64 << 20
COUNT_BYTES = 8


class CudaError(Exception):
    """A function of the driver failed; the text names both."""


class Gpu:
    """Memory on the first GPU that the container has. For one thread: CUDA's context is its own."""

    def __init__(self, size: int = BALLAST_BYTES) -> None:
        """Fill it; what cannot be done is told by `answer`."""
        self._size = size
        self._problem = ""
        try:
            self._fill()
        except CudaError as err:
            self._problem = str(err)

    def _fill(self) -> None:
        _call("cuInit", 0)
        self._device = _call("cuDeviceGet", 0)
        _call("cuCtxSetCurrent", _call("cuDevicePrimaryCtxRetain", self._device))
        self._ballast = _call("cuMemAlloc", self._size)
        self._count = _call("cuMemAlloc", COUNT_BYTES)
        _call("cuMemcpyHtoD", self._ballast, secrets.token_bytes(self._size), self._size)
        _call("cuMemcpyHtoD", self._count, bytes(COUNT_BYTES), COUNT_BYTES)

    def answer(self) -> dict[str, Any]:
        """What is on the GPU now, or `problem`."""
        if self._problem:
            return {"problem": self._problem}
        try:
            count = int.from_bytes(_read(self._count, COUNT_BYTES), "little") + 1
            _call("cuMemcpyHtoD", self._count, count.to_bytes(COUNT_BYTES, "little"), COUNT_BYTES)
            name = _call("cuDeviceGetUuid", self._device).bytes
            return {
                "uuid": f"GPU-{uuid.UUID(bytes=bytes(name))}",
                "bytes": self._size,
                "digest": hashlib.sha256(_read(self._ballast, self._size)).hexdigest(),
                "count": count,
            }
        except CudaError as err:
            return {"problem": str(err)}


def _read(address: Any, size: int) -> bytearray:
    found = bytearray(size)
    _call("cuMemcpyDtoH", found, address, size)
    return found


def _call(name: str, *arguments: Any) -> Any:
    """Call the driver; returns what it answers beside its code.

    Raises:
        CudaError: there is no driver, or it refuses.
    """
    try:
        code, *values = getattr(driver, name)(*arguments)
    except (RuntimeError, ValueError) as err:
        # No library, no such function in it, or a code that the bindings do not know.
        raise CudaError(f"{name}: {' '.join(str(err).split())[:200]}") from err
    if code != driver.CUresult.CUDA_SUCCESS:
        raise CudaError(f"{name}: {code.name}")
    return values[0] if values else None


class Handler(counter.Handler):
    """Knows the path `/gpu` as well."""

    server: Server

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        if self.path == "/gpu":
            self.answer(200, self.server.gpu.answer())
        else:
            super().do_GET()


class Server(counter.Server):
    """That of `counter`, with a GPU."""

    handler = Handler

    def __init__(self, port: int, state: counter.State, gpu: Gpu, host: str = "") -> None:
        self.gpu = gpu
        super().__init__(port, state, host)


def main() -> None:
    with Server(counter.PORT, counter.State(), Gpu()) as server:
        print(f"counter: serving on port {counter.PORT}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
