"""Device memory by the driver API alone: no package is needed, so this worker runs everywhere.

Several allocations hold a known pattern of which no two chunks are equal; a pinned buffer has
another one. All of it is read back and compared, byte by byte, by `check`, which then writes and
reads something new.
"""

import ctypes
import random
import sys
import time

import answering


class Cuda:
    """libcuda.so.1; every call that fails raises."""

    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self.library.cuGetErrorName(code, ctypes.byref(text))
            raise RuntimeError(f"{name}: {(text.value or b'?').decode()} ({code})")


class Memory:
    """The memory of one GPU."""

    def __init__(self, cuda, ordinal, size):
        self.cuda = cuda
        self.ordinal = ordinal
        self.chunk = max(4096, min(answering.CHUNK, size // 8))
        self.context = ctypes.c_void_p()
        self.stream = ctypes.c_void_p()
        cuda.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), ordinal)
        self.enter()
        cuda.call("cuStreamCreate", ctypes.byref(self.stream), 0)
        # Twice, so that a chunk may begin anywhere in it.
        block = random.Random(f"device {ordinal}").randbytes(self.chunk)  # noqa: S311 - known data
        self.pattern = ctypes.create_string_buffer(block + block, 2 * self.chunk)
        self.pinned = ctypes.c_void_p()
        cuda.call("cuMemHostAlloc", ctypes.byref(self.pinned), ctypes.c_size_t(self.chunk), 0)
        self.parts = []
        left = size
        for share in (size // 2, size // 4, size):
            part = min(left, share)
            if part:
                address = ctypes.c_uint64()
                cuda.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(part))
                self.parts.append((address.value, part))
                left -= part
        for number, address, count in self.chunks():
            ctypes.memmove(self.pinned, self.expected(number), count)
            self.copy("cuMemcpyHtoD_v2", ctypes.c_uint64(address), self.pinned, count)
        cuda.call("cuCtxSynchronize")
        ctypes.memmove(self.pinned, self.expected(-1), self.chunk)

    def enter(self):
        self.cuda.call("cuCtxSetCurrent", self.context)

    def copy(self, name, target, source, count):
        self.cuda.call(name, target, source, ctypes.c_size_t(count))

    def expected(self, number):
        """Address of what a chunk holds."""
        return ctypes.addressof(self.pattern) + (number * 1000003 + 17) % self.chunk

    def chunks(self):
        """(number, address, bytes) of each."""
        number = 0
        for start, size in self.parts:
            for at in range(0, size, self.chunk):
                yield number, start + at, min(self.chunk, size - at)
                number += 1

    def same(self, number, count):
        return not LIBC.memcmp(self.pinned, ctypes.c_void_p(self.expected(number)), count)

    def check(self):
        """What is wrong; empty when every byte is right."""
        self.enter()
        wrong = []
        if not self.same(-1, self.chunk):
            wrong.append(f"pinned memory of GPU {self.ordinal}")
        for number, address, count in self.chunks():
            self.copy("cuMemcpyDtoH_v2", self.pinned, ctypes.c_uint64(address), count)
            if not self.same(number, count):
                wrong.append(f"chunk {number} of GPU {self.ordinal}, {count} bytes")
        # Work goes on: other bytes there and back, then the old ones again.
        address = ctypes.c_uint64(self.parts[0][0])
        count = min(self.chunk, self.parts[0][1])
        self.cuda.call("cuMemsetD8_v2", address, ctypes.c_ubyte(0xA5), ctypes.c_size_t(count))
        self.cuda.call("cuStreamSynchronize", self.stream)
        self.copy("cuMemcpyDtoH_v2", self.pinned, address, count)
        if ctypes.string_at(self.pinned, count) != b"\xa5" * count:
            wrong.append(f"memory of GPU {self.ordinal} that was set afterwards")
        ctypes.memmove(self.pinned, self.expected(0), count)
        self.copy("cuMemcpyHtoD_v2", address, self.pinned, count)
        ctypes.memmove(self.pinned, self.expected(-1), self.chunk)
        return wrong

    def bandwidth(self):
        """GB/s of copies of one chunk, the best of several."""
        self.enter()
        device = ctypes.c_uint64(self.parts[0][0])
        count = min(self.chunk, self.parts[0][1])
        pageable = ctypes.create_string_buffer(count)
        found = {}
        for kind, host in (("pinned", self.pinned), ("pageable", pageable)):
            rates = {"device_to_host": 0.0, "host_to_device": 0.0}
            for _ in range(8):
                began = time.perf_counter()
                self.copy("cuMemcpyDtoH_v2", host, device, count)
                between = time.perf_counter()
                self.copy("cuMemcpyHtoD_v2", device, host, count)
                self.cuda.call("cuCtxSynchronize")
                ended = time.perf_counter()
                rates["device_to_host"] = max(
                    rates["device_to_host"], count / (between - began) / 1e9
                )
                rates["host_to_device"] = max(
                    rates["host_to_device"], count / (ended - between) / 1e9
                )
            found.update((f"{name}_{kind}", rate) for name, rate in rates.items())
        ctypes.memmove(self.pinned, self.expected(0), count)
        self.copy("cuMemcpyHtoD_v2", device, self.pinned, count)
        ctypes.memmove(self.pinned, self.expected(-1), self.chunk)
        return found


LIBC = ctypes.CDLL(None)
LIBC.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def main():
    cuda = Cuda()
    count = ctypes.c_int()
    cuda.call("cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        sys.exit("the driver shows no GPU")
    size = answering.OPTIONS["bytes"] // count.value // 4096 * 4096
    memories = [Memory(cuda, ordinal, size) for ordinal in range(count.value)]

    def check():
        wrong = [text for memory in memories for text in memory.check()]
        return {"verified": not wrong, "wrong": wrong[:10]}

    answering.serve(
        {"device_bytes": size * count.value, "gpus": count.value},
        {"check": check, "bandwidth": memories[0].bandwidth},
    )


main()
