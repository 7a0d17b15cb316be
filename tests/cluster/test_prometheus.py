"""Fetching Prometheus: once, without an installation, and not where it is there already."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from devcluster import cache, errors, prometheus

APT_GET = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
*update) touch {folder}/index ;;
*"download prometheus") [ -e {folder}/index ] && echo package > prometheus_2_amd64.deb ;;
*) exit 9 ;;
esac
"""
DPKG_DEB = """#!/bin/sh
[ "$1" = --extract ] && grep -q package "$2" && mkdir -p "$3/usr/bin" || exit 9
echo server > "$3/usr/bin/prometheus"; echo tool > "$3/usr/bin/promtool"
"""


class Debian:
    """A PATH with apt-get and dpkg-deb on it, and what apt-get was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "log"

    def place(self, name: str, text: str) -> None:
        program = self.folder / name
        program.write_text(
            text.replace("{log}", f"{self._log}").replace("{folder}", f"{self.folder}")
        )
        program.chmod(0o755)

    def asked(self) -> list[str]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line.split("=false ")[1] for line in lines]


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Debian:
    found = Debian(tmp_path / "debian")
    found.folder.mkdir()
    for name in ("sh", "touch", "grep", "mkdir"):
        (found.folder / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", os.fspath(found.folder))
    return found


def test_it_is_fetched_once(debian: Debian, tmp_path: Path) -> None:
    debian.place("apt-get", APT_GET)
    debian.place("dpkg-deb", DPKG_DEB)
    where = cache.Cache(tmp_path / "cache")
    prometheus.ensure(where)
    assert (where.bin / "prometheus").read_text() == "server\n"
    assert (where.bin / "promtool").read_text() == "tool\n"
    # The index was not there at first.
    assert debian.asked() == ["download prometheus", "update", "download prometheus"]
    assert sorted(path.name for path in where.root.iterdir()) == ["bin"]
    prometheus.ensure(where)
    assert len(debian.asked()) == 3
    (where.bin / "promtool").unlink()
    prometheus.ensure(where)
    assert (where.bin / "promtool").exists()


def test_what_is_on_path_is_taken(debian: Debian, tmp_path: Path) -> None:
    debian.place("apt-get", APT_GET)
    for name in prometheus.PROGRAMS:
        debian.place(name, "#!/bin/sh\n")
    prometheus.ensure(cache.Cache(tmp_path / "cache"))
    assert debian.asked() == []


def test_elsewhere_one_is_told(debian: Debian, tmp_path: Path) -> None:
    with pytest.raises(errors.ClusterError, match="missing programs: prometheus, promtool") as said:
        prometheus.ensure(cache.Cache(tmp_path / "cache"))
    assert "PATH" in said.value.hint
