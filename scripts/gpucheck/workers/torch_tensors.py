"""PyTorch: known tensors on the GPU, a CUDA graph that is replayed afterwards, pinned memory.

Each tensor is made by a generator of its own seed; `check` makes it again and compares all of it on
the GPU, and its sum with the one that was taken before.
"""

import sys

import answering
import torch

DEVICE = torch.device(answering.OPTIONS["device"])
ON_GPU = DEVICE.type == "cuda"
TENSOR_BYTES = 256 * answering.MIB


def synchronize():
    if ON_GPU:
        torch.cuda.synchronize()


def known(seed, count):
    """Random bytes on the device."""
    generator = torch.Generator(device=DEVICE).manual_seed(seed)
    words = (count // 8,)
    lowest, highest = -(1 << 61), 1 << 61
    return torch.randint(
        lowest, highest, words, generator=generator, device=DEVICE, dtype=torch.int64
    )


class Tensors:
    """Device memory with known contents."""

    def __init__(self, size):
        self.sizes = []
        while size >= 8:
            self.sizes.append(min(size, TENSOR_BYTES))
            size -= self.sizes[-1]
        self.tensors = [known(seed, count) for seed, count in enumerate(self.sizes)]
        self.sums = [int(tensor.sum()) for tensor in self.tensors]

    def check(self):
        wrong = []
        for seed, (count, tensor) in enumerate(zip(self.sizes, self.tensors, strict=True)):
            if not torch.equal(tensor, known(seed, count)) or int(tensor.sum()) != self.sums[seed]:
                wrong.append(f"tensor {seed} of {count} bytes")
        return wrong


class Graph:
    """A CUDA graph with weights, its input and its output at fixed addresses."""

    def __init__(self, width=1024):
        generator = torch.Generator(device=DEVICE).manual_seed(99)

        def noise(*shape):
            return torch.randn(*shape, generator=generator, device=DEVICE)

        self.inputs = [noise(64, width), noise(64, width)]
        self.weights = [noise(width, width) / 32 for _ in range(3)]
        self.given = self.inputs[0].clone()
        self.graph = None
        if ON_GPU:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.result = self.work(self.given)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = self.work(self.given)
        self.before = [self.replay(given).cpu() for given in self.inputs]
        # The second run must not be able to answer with the first one's result.
        assert not torch.equal(*self.before)

    def work(self, values):
        for weight in self.weights:
            values = torch.relu(values @ weight)
        return values

    def replay(self, given):
        self.given.copy_(given)
        if self.graph is None:
            self.result = self.work(self.given)
        else:
            self.graph.replay()
        synchronize()
        return self.result.clone()

    def check(self):
        wrong = []
        for number, given in enumerate(self.inputs):
            after = self.replay(given)
            if not torch.equal(after.cpu(), self.before[number]):
                wrong.append(f"result {number} of the CUDA graph")
            if not torch.allclose(after, self.work(given), rtol=1e-3, atol=1e-3):
                wrong.append(f"result {number} beside the same work without a graph")
        return wrong


class Pinned:
    """Host memory that the GPU reads from."""

    def __init__(self):
        self.expected = torch.arange(answering.CHUNK // 8, dtype=torch.int64) * 2654435761
        self.memory = torch.empty(answering.CHUNK // 8, dtype=torch.int64, pin_memory=ON_GPU)
        self.memory.copy_(self.expected)

    def check(self):
        wrong = []
        if not torch.equal(self.memory, self.expected):
            wrong.append("pinned memory")
        if ON_GPU and not self.memory.is_pinned():
            wrong.append("pinned memory is not pinned any more")
        there = self.memory.to(DEVICE, non_blocking=True)
        synchronize()
        if not torch.equal(there.cpu(), self.expected):
            wrong.append("a copy from pinned memory")
        return wrong


def main():
    parts = [Tensors(answering.OPTIONS["bytes"]), Graph(), Pinned()]
    synchronize()
    if ON_GPU:
        torch.cuda.empty_cache()

    def check():
        wrong = [text for part in parts for text in part.check()]
        if ON_GPU:
            torch.cuda.empty_cache()
        return {"verified": not wrong, "wrong": wrong[:10]}

    first = check()
    if not first["verified"]:
        sys.exit(f"wrong before anything was captured: {first['wrong']}")
    answering.serve(
        {
            "device_bytes": torch.cuda.memory_reserved() if ON_GPU else answering.OPTIONS["bytes"],
            "gpus": 1,
            "torch": torch.__version__,
            "torch_cuda": torch.version.cuda,
        },
        {"check": check},
    )


main()
