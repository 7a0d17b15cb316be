"""Every module with something in it has a file of tests of its own."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNIT = ROOT / "tests/unit"
MOST = 20
"""A module with no more statements is covered by the tests of those who use it."""

ELSEWHERE = {
    "chrek.cli.bench_records": "tests/unit/test_cli_bench_results.py",
    "chrek.cli.hash_command": "tests/unit/test_cli.py",
    "chrek.cli.workload": "tests/unit/test_cli_checkpoint_command.py",
    **dict.fromkeys(
        (
            "chrek.cli.page_bench",
            "chrek.cli.page_charts",
            "chrek.cli.page_data",
            "chrek.cli.page_html",
        ),
        "tests/unit/test_cli_page.py",
    ),
    "chrek.peer": "tests/system/test_peer.py",
    "chrek.inode": "tests/unit/test_archive.py",
    "chrek.leftovers": "tests/system/test_serving.py",
    **dict.fromkeys(
        (
            "chrek.remote.backend",
            "chrek.remote.index",
            "chrek.remote.packs",
            "chrek.remote.prune",
            "chrek.remote.upkeep",
            "chrek.remote.upload",
        ),
        "tests/unit/test_remote_store.py",
    ),
    **dict.fromkeys(
        ("chrek.operator.holdings", "chrek.operator.news"),
        "tests/unit/test_operator_status.py",
    ),
    "chrek.remote.opening": "tests/unit/test_storage.py",
    "chrek.remote.s3objects": "tests/unit/test_remote_bucket.py",
    "chrek.remote.storekeys": "tests/unit/test_remote_seal.py",
    "chrek.remote.usage": "tests/unit/test_remote_repack.py",
    **dict.fromkeys(
        (
            "chrek.operator.health",
            "chrek.operator.leader",
            "chrek.operator.main",
        ),
        "tests/cluster/test_operator.py",
    ),
    "chrek.operator.trust": "tests/cluster/test_operator_trust.py",
}
"""Modules of which only the real thing tells, or that make no sense alone -> where they are."""


def statements(path):
    tree = ast.parse(path.read_text())
    return sum(
        isinstance(node, ast.stmt) and not isinstance(node, ast.Import | ast.ImportFrom)
        for node in ast.walk(tree)
    )


def modules():
    """Yields (module, the name of its file of tests)."""
    for path in sorted((ROOT / "src/chrek").rglob("*.py")):
        if path.stem.endswith("_pb2") or statements(path) <= MOST:
            continue
        parts = path.relative_to(ROOT / "src/chrek").with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        yield ".".join(("chrek", *parts)), UNIT / f"test_{'_'.join(parts)}.py"


MODULES = dict(modules())


def test_every_module_has_its_tests():
    assert len(MODULES) > 40
    missing = [
        f"{name}: {path.relative_to(ROOT)}"
        for name, path in MODULES.items()
        if name not in ELSEWHERE and not path.exists()
    ]
    assert not missing, "\n".join(missing)


def test_exceptions_are_still_needed():
    for name, where in ELSEWHERE.items():
        assert name in MODULES, f"{name} is gone or small: drop it from ELSEWHERE"
        assert not MODULES[name].exists(), f"{name} has tests of its own: drop it from ELSEWHERE"
        assert (ROOT / where).exists(), f"{name}: {where} is not there"


def test_scripts_test_and_conftest_mean_the_same_folders():
    found = set()
    for path in ("scripts/test", "tests/conftest.py"):
        (line,) = re.findall(r"^FAST_FOLDERS = (.*)$", (ROOT / path).read_text(), re.MULTILINE)
        found.add(line)
    assert len(found) == 1, found
