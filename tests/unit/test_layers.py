"""Arrows between modules point down only, and each heavy library has one door."""

import ast
import itertools
import pathlib

import pytest

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "src"

LAYERS = [
    ["cli"],
    ["agent", "operator", "hooks", "standalone"],
    ["checks"],
    ["checkpoint", "restore", "prune", "rekeying", "transfer"],
    ["storage", "gpustate"],
    ["facts"],
    ["remote"],
    ["verification"],
    ["ipcstate", "preflight", "privilege", "inside", "filefacts", "surroundings", "reach"],
    [
        "criu",
        "cuda",
        "kube",
        "registry",
        "store",
        "files",
        "peer",
        "socket",
        "archive",
        "cgroups",
        "context",
        "dynamo",
        "initfile",
        "leftovers",
        "ipc",
        "space",
        "mqueue",
        "tarball",
    ],
    ["removal"],
    ["endpoints", "hugetlb"],
    ["digest", "inode", "ipcns", "podtemplate", "rootfd"],
    [
        "identity",
        "manifest",
        "variant",
        "eligibility",
        "config",
        "crd",
        "schema",
        "process",
        "procfs",
        "state",
    ],
    ["compatibility"],
    ["errors", "log", "deadline", "reasons"],
    ["names", "quantity", "retries", "worker"],
]
"""Top first; a module may import from lower lines only, and not from its own line."""

DOORS = {
    "aiohttp": (
        "chrek.kube",
        "chrek.registry",
        "chrek.remote.ocimanifest",
        "chrek.agent",
        "chrek.operator",
    ),
    "click": ("chrek.cli", "chrek.hooks"),
    "cuda": ("chrek.cuda.driver", "chrek.hooks.counter_gpu"),
    "cryptography": ("chrek.operator", "chrek.remote.ciphers"),
    "google": ("chrek.criu", "chrek.cuda.podresources_pb2"),
    "grpc": ("chrek.cuda.podresources",),
    "jsonschema": ("chrek.schema", "chrek.hooks", "chrek.cli"),
    "obstore": ("chrek.remote.s3objects",),
    "kubernetes": ("chrek.kube.workstation",),
    "pynvml": ("chrek.cuda.nvml",),
    "prometheus_client": ("chrek.agent", "chrek.operator"),
    "rich": ("chrek.cli",),
    "zstandard": ("chrek.remote.pack", "chrek.tarball"),
}
"""Library -> the only modules (or packages) that may import it."""

RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def modules():
    for path in sorted((SOURCE / "chrek").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path):
    """Yields (line, dotted name) of everything a module imports, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import absolutely"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name) for name in names)


MODULES = list(modules())


def test_the_package_is_seen():
    assert {"chrek.errors", "chrek.cli", "chrek.cli.hash_command"} <= {name for name, _ in MODULES}


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_point_down(name, path):
    if name == "chrek":
        assert not list(imports(path)), "the package itself imports nothing"
        return
    own = name.split(".")[1]
    assert own in RANK, f"{name}: give it a line in LAYERS"
    wrong = []
    for line, imported in imports(path):
        if not imported.startswith("chrek.") or imported == "chrek.__version__":
            continue
        other = imported.split(".")[1]
        assert other in RANK, f"{path}:{line}: {imported} is in no layer"
        if other != own and RANK[other] <= RANK[own]:
            wrong.append(f"{path.name}:{line}: {own} must not import {other}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_heavy_libraries_have_one_door(name, path):
    wrong = [
        f"{path.name}:{line}: only {', '.join(DOORS[library])} may import {library}"
        for line, imported in imports(path)
        if (library := imported.split(".")[0]) in DOORS
        and not any(name == door or name.startswith(f"{door}.") for door in DOORS[library])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_only_process_starts_programs(name, path):
    """Others may name subprocess.Popen as a type and catch its exceptions."""
    starts = [
        f"{path.name}:{node.lineno}: {ast.unparse(node.func)}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith(("subprocess.", "os.exec", "os.spawn", "os.system"))
        and not ast.unparse(node.func).endswith(("Error", "Expired"))
    ]
    assert not starts or name == "chrek.process", "use chrek.process\n" + "\n".join(starts)


def test_a_module_stands_in_one_layer():
    flat = list(itertools.chain.from_iterable(LAYERS))
    assert len(flat) == len(set(flat))
