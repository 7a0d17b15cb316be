#!/usr/bin/env python3
"""Writes a Llama model file with random weights, for the example server.

The file is what llama.cpp expects of a real model (GGUF, architecture ``llama``, weights in
Q8_0, a SentencePiece-style tokenizer), only the weights are noise from a seeded generator. It
gives the same bytes for the same options on every machine, so answers can be compared.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (keys, Q8_0 blocks).
"""

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Iterator

import gguf
import numpy
import numpy.typing

Bytes = numpy.typing.NDArray[numpy.uint8]

BLOCK = 32  # Q8_0: 32 weights share one half-precision scale
HEADS, KV_HEADS, HEAD_SIZE = 32, 4, 64
EMBEDDING, FEED_FORWARD = HEADS * HEAD_SIZE, 5632
CONTEXT = 4096


def vocabulary() -> Iterator[tuple[str, float, gguf.TokenType]]:
    """Token, score, type. Every text can be encoded: what no piece covers becomes byte tokens."""
    yield "<unk>", 0.0, gguf.TokenType.UNKNOWN
    yield "<s>", 0.0, gguf.TokenType.CONTROL
    yield "</s>", 0.0, gguf.TokenType.CONTROL
    for value in range(256):
        yield f"<0x{value:02X}>", 0.0, gguf.TokenType.BYTE
    characters = [chr(value) for value in range(0x21, 0x7F)]
    syllables = [first + second for first in "bcdfghjklmnprstvwxz" for second in "aeiouy"]
    # Longer pieces come first: the tokenizer merges the pair with the highest score.
    pieces = [f"▁{syllable}" for syllable in syllables] + syllables + ["▁", *characters]
    for rank, piece in enumerate(pieces):
        yield piece, -float(rank), gguf.TokenType.NORMAL


def q8_0(random: numpy.random.Generator, rows: int, columns: int, deviation: float) -> Bytes:
    """Random Q8_0 blocks: shape [rows, columns / 32 * 34], weights uniform around zero."""
    blocks = rows * columns // BLOCK
    data = numpy.empty((blocks, 2 + BLOCK), dtype=numpy.uint8)
    # Bytes spread evenly over -128..127 have a standard deviation of 73.9.
    data[:, :2] = numpy.frombuffer(numpy.float16(deviation / 73.9).tobytes(), dtype=numpy.uint8)
    weights = numpy.frombuffer(random.bytes(blocks * BLOCK), dtype=numpy.int8)
    # Quantizers never write -128, and llama.cpp's kernels may negate weights in 8 bits.
    data[:, 2:] = numpy.maximum(weights, -127).view(numpy.uint8).reshape(blocks, BLOCK)
    return data.reshape(rows, -1)


def tensors(layers: int, seed: int, words: int) -> Iterator[tuple[str, Bytes, bool]]:
    """Name, data, whether it is Q8_0 (else float32), in the order of the file."""
    random = numpy.random.Generator(numpy.random.PCG64(seed))
    ones = numpy.ones(EMBEDDING, dtype=numpy.float32)
    deviation = 0.03
    yield "token_embd.weight", q8_0(random, words, EMBEDDING, 1.0), True
    yield "output_norm.weight", ones.view(numpy.uint8), False
    head = q8_0(random, words, EMBEDDING, deviation)
    # Control and byte tokens get zero logits, which never win: answers are printable and
    # end only at max_tokens.
    head[:259] = 0
    yield "output.weight", head, True
    key_size = KV_HEADS * HEAD_SIZE
    for layer in range(layers):
        yield f"blk.{layer}.attn_norm.weight", ones.view(numpy.uint8), False
        yield f"blk.{layer}.ffn_norm.weight", ones.view(numpy.uint8), False
        for name, rows, columns in (
            ("attn_q", EMBEDDING, EMBEDDING),
            ("attn_k", key_size, EMBEDDING),
            ("attn_v", key_size, EMBEDDING),
            ("attn_output", EMBEDDING, EMBEDDING),
            ("ffn_gate", FEED_FORWARD, EMBEDDING),
            ("ffn_up", FEED_FORWARD, EMBEDDING),
            ("ffn_down", EMBEDDING, FEED_FORWARD),
        ):
            yield f"blk.{layer}.{name}.weight", q8_0(random, rows, columns, deviation), True


def write(path: pathlib.Path, layers: int, seed: int) -> None:
    """Writes the model beside ``path`` and renames it: a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    words = list(vocabulary())
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_name(f"random-llama-{layers}-layers-seed-{seed}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_block_count(layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_vocab_size(len(words))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _, _ in words])
    writer.add_token_scores([score for _, score, _ in words])
    writer.add_token_types([kind for _, _, kind in words])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    # The header names every tensor, so the shapes are announced first and the data streamed
    # after it: memory use stays at one tensor.
    shapes = [
        (name, data.shape, data.nbytes, quantized)
        for name, data, quantized in tensors(layers, seed, len(words))
    ]
    try:
        for name, shape, size, quantized in shapes:
            if quantized:
                writer.add_tensor_info(
                    name, shape, numpy.dtype(numpy.uint8), size, gguf.GGMLQuantizationType.Q8_0
                )
            else:
                writer.add_tensor_info(name, (size // 4,), numpy.dtype(numpy.float32), size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, data, _ in tensors(layers, seed, len(words)):
            writer.write_tensor_data(data)
        writer.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=pathlib.Path, help="the file to write, e.g. model.gguf")
    parser.add_argument("--layers", type=int, default=26, help="26 layers make 1.13 GiB")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.path.exists():
        print(f"{options.path} exists, nothing to do")
        return
    started = time.monotonic()
    try:
        write(options.path, options.layers, options.seed)
    except OSError as error:
        sys.exit(
            f"error: cannot write {options.path}: {error.strerror} "
            f"(it needs about {options.layers * 47} MB free)"
        )
    size = options.path.stat().st_size
    print(f"{options.path}: {size} bytes in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
