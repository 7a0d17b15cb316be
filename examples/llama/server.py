#!/usr/bin/env python3
"""The example worker: llama.cpp's OpenAI-compatible server, and a counter kept in memory.

llama.cpp's own HTTP server (from the xllamacpp package) listens on ``--port``: ``/health``,
``/v1/completions`` and the rest of its API. The package takes no routes of ours, so what is
ours has a listener of its own, in the same process, on ``--state-port``:

- ``GET /health``: 200 after the warm-up, 503 before it: the readiness probe. (llama.cpp's own
  ``/health`` says 200 as soon as the model is loaded.)
- ``GET /counter`` counts up, ``GET /state`` only looks. Both answer with a nonce drawn once at
  start, which is stored nowhere: a worker that knows an earlier worker's nonce has that
  worker's memory.

A cold start reads every byte of the model into anonymous memory (no mmap), then processes a
prompt of ``--warmup-tokens``, as engines do before they take requests. Nothing here knows of
chrek.
"""

import argparse
import contextlib
import http.server
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from typing import Any

import xllamacpp

STOPPING = {signal.SIGTERM, signal.SIGINT}


class State:
    """What exists only in this process's memory."""

    def __init__(self) -> None:
        self.nonce = secrets.token_hex(16)
        self.started = time.time()
        self.counter = 0
        self.warm = False
        self.lock = threading.Lock()

    def read(self, *, count: bool) -> dict[str, Any]:
        with self.lock:
            self.counter += count
            return {
                "nonce": self.nonce,
                "counter": self.counter,
                "startedAt": self.started,
                "pid": os.getpid(),
                "hostname": socket.gethostname(),
            }


class StateHandler(http.server.BaseHTTPRequestHandler):
    """``GET /health``, ``/counter`` and ``/state``."""

    protocol_version = "HTTP/1.0"
    state: State

    def do_GET(self) -> None:
        status = 200
        if self.path == "/health":
            status = 200 if self.state.warm else 503
            answer: dict[str, Any] = {"status": "ok" if self.state.warm else "warming up"}
        elif self.path in ("/counter", "/state"):
            answer = self.state.read(count=self.path == "/counter")
        else:
            self.send_error(404, "no such path; there are /health, /counter and /state")
            return
        body = json.dumps(answer).encode() + b"\n"
        # A probe may have given up meanwhile: during the warm-up the processor is busy.
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        if self.path != "/health":
            print("state:", format % args, file=sys.stderr, flush=True)


def parameters(options: argparse.Namespace) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.served_model_name}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_ctx = options.context
    params.n_threads_http = 4
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.warmup = True
    params.n_gpu_layers = 0
    params.fit_params = False
    params.cache_ram_mib = 0
    params.ui = False
    return params


def stop_when_asked() -> None:
    """End the process at once on SIGTERM or SIGINT, in the middle of a warm-up as well."""
    received = signal.sigwait(STOPPING)
    print(f"{signal.Signals(received).name}: stopping", file=sys.stderr, flush=True)
    os._exit(0)


def warm_up(server: xllamacpp.Server, tokens: int) -> None:
    """Processes a prompt of that many tokens; 300 is any token of make_model.py's vocabulary."""
    answer = server.handle_completions(
        {"prompt": [1] + [300 + number % 64 for number in range(tokens - 1)], "max_tokens": 1}
    )
    if "choices" not in answer:
        sys.exit(f"error: the warm-up of {tokens} tokens failed: {answer}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="GGUF file, e.g. /models/model.gguf")
    parser.add_argument("--served-model-name", default="random-llama")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 (a pod's port)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--state-port", type=int, default=8001)
    parser.add_argument("--context", type=int, default=4096, help="tokens of context")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup-tokens", type=int, default=768, help="0: no warm-up")
    options = parser.parse_args()
    started = time.monotonic()
    if not os.access(options.model, os.R_OK):
        sys.exit(f"error: cannot read the model {options.model}; make one with make_model.py")

    # Blocked before any thread exists, so that only the thread that waits for them gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    threading.Thread(target=stop_when_asked, daemon=True).start()
    state = StateHandler.state = State()
    listener = http.server.ThreadingHTTPServer((options.host, options.state_port), StateHandler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()

    server = xllamacpp.Server(parameters(options))  # returns when the model is loaded
    loaded = time.monotonic() - started
    if options.warmup_tokens:
        warm_up(server, options.warmup_tokens)
    state.warm = True
    print(
        f"serving {options.model} at {server.listening_address}: loaded in {loaded:.1f} s, "
        f"ready after {time.monotonic() - started:.1f} s",
        file=sys.stderr,
        flush=True,
    )
    threading.Event().wait()


if __name__ == "__main__":
    main()
