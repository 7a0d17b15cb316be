"""Fuzz one target in this process: NAME, a folder for inputs or one input, options of libFuzzer.

Source: https://github.com/google/atheris, https://llvm.org/docs/LibFuzzer.html
"""

from __future__ import annotations

import pathlib
import sys

import atheris

with atheris.instrument_imports(include=["chrek.manifest", "chrek.remote", "chrek.criu.images"]):
    from fuzz import targets


def main() -> None:
    name, *arguments = sys.argv[1:]
    target = (targets.TARGETS | targets.CANARY)[name]
    folder = pathlib.Path(arguments[0])
    if folder.is_dir():
        for number, seed in enumerate(target.seeds()):
            (folder / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *arguments], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
