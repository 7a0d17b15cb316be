"""The worker with memory on a GPU, on a driver that keeps it in this process."""

# ruff: noqa: N802 - names of the driver's functions
import enum
import hashlib
import json
import threading
import types
import urllib.request
import uuid

import pytest

from chrek.hooks import counter, counter_gpu

SIZE = 4096
NAME = uuid.UUID(int=7)


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100


class Driver:
    """As cuda.bindings.driver: each function answers with a tuple, its code first."""

    def __init__(self):
        self.CUresult = CUresult
        self.memory = {}
        self.fails = {}
        self.context = None

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name in super().__getattribute__("fails"):
            error = super().__getattribute__("fails")[name]
            if isinstance(error, Exception):
                raise error
            return lambda *_: (error, None)
        return found

    def cuInit(self, flags):
        assert flags == 0
        return (CUresult.CUDA_SUCCESS,)

    def cuDeviceGet(self, ordinal):
        return CUresult.CUDA_SUCCESS, f"device {ordinal}"

    def cuDevicePrimaryCtxRetain(self, device):
        return CUresult.CUDA_SUCCESS, f"context of {device}"

    def cuCtxSetCurrent(self, context):
        self.context = context
        return (CUresult.CUDA_SUCCESS,)

    def cuMemAlloc(self, size):
        assert self.context == "context of device 0"
        address = 0x1000 * (len(self.memory) + 1)
        self.memory[address] = bytearray(size)
        return CUresult.CUDA_SUCCESS, address

    def cuMemcpyHtoD(self, address, data, size):
        assert len(data) == size == len(self.memory[address])
        self.memory[address][:] = data
        return (CUresult.CUDA_SUCCESS,)

    def cuMemcpyDtoH(self, data, address, size):
        assert len(data) == size
        data[:] = self.memory[address]
        return (CUresult.CUDA_SUCCESS,)

    def cuDeviceGetUuid(self, device):
        assert device == "device 0"
        return CUresult.CUDA_SUCCESS, types.SimpleNamespace(bytes=NAME.bytes)


@pytest.fixture
def driver(monkeypatch):
    made = Driver()
    monkeypatch.setattr(counter_gpu, "driver", made)
    return made


def test_it_answers_with_what_is_on_the_gpu_now(driver):
    gpu = counter_gpu.Gpu(SIZE)
    ballast, _ = driver.memory.values()
    first = gpu.answer()
    assert first == {
        "uuid": f"GPU-{NAME}",
        "bytes": SIZE,
        "digest": hashlib.sha256(ballast).hexdigest(),
        "count": 1,
    }
    ballast[0] ^= 1
    second = gpu.answer()
    assert (second["count"], second["bytes"]) == (2, SIZE)
    assert second["digest"] != first["digest"]


def test_the_counter_is_on_the_gpu_alone(driver):
    gpu = counter_gpu.Gpu(SIZE)
    gpu.answer()
    _, count = driver.memory.values()
    count[:] = (40).to_bytes(8, "little")
    assert gpu.answer()["count"] == 41


def test_each_process_draws_anew(driver):
    digests = {counter_gpu.Gpu(SIZE).answer()["digest"] for _ in range(3)}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("function", "error", "problem"),
    [
        ("cuInit", CUresult.CUDA_ERROR_NO_DEVICE, "cuInit: CUDA_ERROR_NO_DEVICE"),
        ("cuMemAlloc", CUresult.CUDA_ERROR_OUT_OF_MEMORY, "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuInit", RuntimeError("no\nlibcuda.so.1"), "cuInit: no libcuda.so.1"),
        ("cuDeviceGet", ValueError("4711 is not a valid CUresult"), "cuDeviceGet: 4711 is not"),
    ],
)
def test_a_process_without_a_gpu_says_so(driver, function, error, problem):
    driver.fails[function] = error
    found = counter_gpu.Gpu(SIZE).answer()
    assert [*found] == ["problem"]
    assert found["problem"].startswith(problem)


def test_a_gpu_that_is_lost_later(driver):
    gpu = counter_gpu.Gpu(SIZE)
    driver.fails["cuMemcpyDtoH"] = CUresult.CUDA_ERROR_NO_DEVICE
    assert gpu.answer() == {"problem": "cuMemcpyDtoH: CUDA_ERROR_NO_DEVICE"}


def test_it_serves_all_that_the_counter_serves(driver, tmp_path):
    gpu = counter_gpu.Gpu(SIZE)
    state = counter.State([str(tmp_path)])

    def ask(path):
        url = f"http://127.0.0.1:{server.server_port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)

    with counter_gpu.Server(0, state, gpu, host="127.0.0.1") as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert ask("/gpu")["count"] == 1
        assert ask("/count") == {"nonce": state.nonce, "count": 1}
        assert ask("/gpu")["count"] == 2
        server.shutdown()
