"""A workload with GPU memory, by ctypes on libcuda.so.1: standard library only.

It runs from a file or as `python3 -c SOURCE`, and answers on TCP: a line of words and a line back,
or the same words as the path of a GET of HTTP.

    digest     SHA-256 of each GPU's memory, copied back by the driver
    pinned     the same of the pinned host memory
    add N      adds N to every byte of device memory; answers as digest does
    uuids      UUIDs of the GPUs that the driver says it has now, in the order of GPUS
    free       free bytes of each GPU
    pids       PIDs of the processes that have GPU memory, as they see them
    calls      how many driver calls a thread of each has made; it makes one every 20 ms
    synchronize  waits for the GPU, as long as the stand-in is told to
    nonce      a random word, made at the start
    share      makes the memory of each GPU shareable with other processes
    managed    allocates managed memory on each GPU
    exit CODE

Environment:
    GPUS       ordinals, such as 0,1; default: all that the driver shows
    BYTES      of device memory a GPU, in two allocations; default 1 MiB
    PINNED     bytes of pinned host memory; default 64 KiB
    SEED       of the memory's contents; default 0
    PROCESSES  1: a process per GPU, as the ranks of tensor parallelism; the first one has no CUDA
    HOST, PORT  default 127.0.0.1 and 8000; PORT=0 takes any and prints it
"""

import ctypes
import hashlib
import os
import random
import socket
import sys
import threading
import time
import uuid

BYTES = int(os.environ.get("BYTES", 1 << 20))
PINNED = int(os.environ.get("PINNED", 1 << 16))
SEED = os.environ.get("SEED", "0")
nonce = os.urandom(16).hex()


class Cuda:
    """Driver calls that raise; each says which device's context it needs."""

    def __init__(self):
        # The driver's own listens in each process, under a name that has its PID in it.
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(f"\0cuda-uvmfd-4026531836-{os.getpid()}")
        self.socket.listen()
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code:
            raise RuntimeError(f"{name}: CUDA error {code}")

    def count(self):
        number = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(number))
        return number.value


class Device:
    """One GPU: its primary context and the memory on it."""

    def __init__(self, cuda, ordinal):
        self.cuda = cuda
        self.ordinal = ordinal
        self.context = ctypes.c_void_p()
        cuda.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), ordinal)
        self.enter()
        self.parts = []
        for size in (BYTES - BYTES // 4, BYTES // 4):
            address = ctypes.c_uint64()
            cuda.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
            self.parts.append((address, size))
        self.pinned = ctypes.c_void_p()
        cuda.call("cuMemHostAlloc", ctypes.byref(self.pinned), ctypes.c_size_t(PINNED), 0)
        pattern = random.Random(f"{SEED}/{ordinal}").randbytes(BYTES)
        ctypes.memmove(self.pinned, pattern[:PINNED].ljust(PINNED, b"\0"), PINNED)
        self.write(pattern)

    def enter(self):
        self.cuda.call("cuCtxSetCurrent", self.context)

    def read(self):
        data = bytearray()
        for address, size in self.parts:
            buffer = ctypes.create_string_buffer(size)
            self.cuda.call("cuMemcpyDtoH_v2", buffer, address, ctypes.c_size_t(size))
            data += buffer.raw
        return bytes(data)

    def write(self, data):
        for address, size in self.parts:
            self.cuda.call("cuMemcpyHtoD_v2", address, data[:size], ctypes.c_size_t(size))
            data = data[size:]

    def add(self, number):
        table = bytes((value + number) % 256 for value in range(256))
        self.write(self.read().translate(table))

    def uuid(self):
        raw = ctypes.create_string_buffer(16)
        self.cuda.call("cuDeviceGetUuid_v2", raw, self.ordinal)
        return f"GPU-{uuid.UUID(bytes=raw.raw)}"

    def free(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.cuda.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def digest(self):
        return hashlib.sha256(self.read()).hexdigest()

    def pinned_digest(self):
        return hashlib.sha256(ctypes.string_at(self.pinned, PINNED)).hexdigest()

    def share(self):
        handle = ctypes.create_string_buffer(64)
        self.cuda.call("cuIpcGetMemHandle_v2", handle, self.parts[0][0])
        return "shared"

    def managed(self):
        address = ctypes.c_uint64()
        self.cuda.call("cuMemAllocManaged", ctypes.byref(address), ctypes.c_size_t(4096), 1)
        return "managed"

    def synchronize(self):
        self.cuda.call("cuStreamSynchronize", None)
        return "synchronized"


class Engine:
    """The process that has CUDA, with one GPU or several."""

    def __init__(self, ordinals):
        cuda = Cuda()
        if ordinals is None:
            ordinals = range(cuda.count())
        self.devices = [Device(cuda, ordinal) for ordinal in ordinals]
        self.calls = 0
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        device = self.devices[0]
        device.enter()
        while True:
            device.free()
            self.calls += 1
            time.sleep(0.02)

    def answer(self, words):
        def of_each(method, *arguments):
            answers = []
            for device in self.devices:
                device.enter()
                answers.append(str(method(device, *arguments)))
            return " ".join(answers)

        match words:
            case ["digest"]:
                return of_each(Device.digest)
            case ["pinned"]:
                return of_each(Device.pinned_digest)
            case ["add", number]:
                of_each(Device.add, int(number))
                return of_each(Device.digest)
            case ["uuids"]:
                return of_each(Device.uuid)
            case ["free"]:
                return of_each(Device.free)
            case ["share"]:
                return of_each(Device.share)
            case ["managed"]:
                return of_each(Device.managed)
            case ["synchronize"]:
                return of_each(Device.synchronize)
            case ["calls"]:
                return str(self.calls)
            case ["pids"]:
                return str(os.getpid())
        return "?"

    def try_answer(self, words):
        try:
            return self.answer(words)
        except RuntimeError as error:
            return f"error: {error}"


class Ranks:
    """One child process per GPU; this process itself has no CUDA."""

    def __init__(self, ordinals):
        self.lock = threading.Lock()
        self.streams = []
        for ordinal in ordinals:
            ours, theirs = socket.socketpair()
            if os.fork() == 0:
                ours.close()
                self.serve(theirs, ordinal)
            theirs.close()
            self.streams.append(ours.makefile("rw"))
        for stream in self.streams:
            if stream.readline() != "ready\n":
                sys.exit("a rank did not start")

    def serve(self, connection, ordinal):
        for stream in self.streams:
            stream.close()
        with connection, connection.makefile("rw") as stream:
            engine = Engine([ordinal])
            stream.write("ready\n")
            stream.flush()
            for line in stream:
                stream.write(engine.try_answer(line.split()) + "\n")
                stream.flush()
        os._exit(0)

    def try_answer(self, words):
        with self.lock:
            for stream in self.streams:
                stream.write(" ".join(words) + "\n")
                stream.flush()
            return " ".join(stream.readline().strip() for stream in self.streams)


def respond(engine, words):
    match words:
        case ["nonce"]:
            return nonce
        case ["exit", code]:
            os._exit(int(code))
    return engine.try_answer(words)


def serve(engine, connection):
    with connection, connection.makefile("rw", newline="\n") as stream:
        words = stream.readline().split()
        if words[:1] != ["GET"]:
            stream.write(respond(engine, words) + "\n")
            return
        while stream.readline().strip():
            pass
        text = respond(engine, words[1].strip("/").split("/")) + "\n"
        stream.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n")
        stream.write(f"Content-Type: text/plain\r\nConnection: close\r\n\r\n{text}")


def main():
    chosen = os.environ.get("GPUS")
    ordinals = [int(word) for word in chosen.split(",")] if chosen else None
    if os.environ.get("PROCESSES") == "1":
        if ordinals is None:
            sys.exit("PROCESSES=1 needs GPUS: only the ranks may ask the driver")
        engine = Ranks(ordinals)
    else:
        engine = Engine(ordinals)
    address = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))
    server = socket.create_server(address)
    print(f"workload ready {server.getsockname()[1]}", flush=True)
    while True:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=(engine, connection), daemon=True).start()


main()
