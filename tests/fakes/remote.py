"""An object in a process of its own, started with another environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from chrek import errors

PROGRAM = """
import importlib, json, sys, msgspec
from chrek import errors
module, name = sys.argv[1].split(":")
made = getattr(importlib.import_module(module), name)()
for line in sys.stdin:
    method, args = json.loads(line)
    try:
        answer = {"value": msgspec.to_builtins(getattr(made, method)(*args))}
    except errors.GpuError as err:
        answer = {"error": [err.message, err.code, err.hint, str(err.reason)]}
    print(json.dumps(answer), flush=True)
"""


class Remote:
    """Methods called here run there; arguments and results are what JSON holds."""

    def __init__(self, what: str, environment: Mapping[str, str]) -> None:
        """Start it.

        Args:
            what: `module:Class`, made without arguments.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.pid = self._process.pid

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def __getattr__(self, method: str) -> object:
        def call(*args: object) -> object:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps([method, args]) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
            if "error" in answer:
                message, code, hint, reason = answer["error"]
                raise errors.GpuError(message, code=code, hint=hint, reason=reason)
            return answer["value"]

        return call
