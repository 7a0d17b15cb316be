"""Programs that measure: what `scripts/bench` does with its arguments."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from showcase import commands, diagnosis, errors, installation, setup, starts

Object = dict[str, Any]
FOLDER = commands.ROOT / "docs" / "bench"
PACKAGES = ("aiohttp", "chrek", "msgspec", "obstore", "prometheus_client", "yaml")
"""What the operator, and the client that drives it, need."""
PARTS = ("transfers", "second")
"""Of `store`."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(description: str | None) -> int:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(
        dest="what", required=True, metavar="{start,operator,restore,store,install,cli}"
    )
    _start_arguments(what.add_parser("start", help="cold and warm starts of the example"))
    _operator_arguments(what.add_parser("operator", help="the operator with many objects"))
    _restore_arguments(what.add_parser("restore", help="captures and restores beside stock CRIU"))
    _store_arguments(what.add_parser("store", help="artifacts to and from an S3 server"))
    _install_arguments(what.add_parser("install", help="helm's commands and the chart's hooks"))
    _cli_arguments(what.add_parser("cli", help="commands of chrek with many checkpoints"))
    options = parser.parse_args()
    run: Callable[[argparse.Namespace], Object] = options.run
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        report = run(options)
    except errors.ShowError as err:
        sys.stderr.write(f"error: {err}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report[options.headline], indent=2))
    commands.say(f"written to {options.output}")
    return 0


def interrupt(*_: object) -> None:
    """Unwind the stack, so that what was made is removed; further signals do not stop that."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _start_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeat", type=int, default=5, help="warm starts on each node")
    parser.add_argument("--cold", type=int, default=3, help="cold starts")
    parser.add_argument("--output", type=Path, default=FOLDER / "start.json")
    parser.set_defaults(run=_start, headline="medians")


def _start(options: argparse.Namespace) -> Object:
    with setup.prepared() as live:
        try:
            return starts.measure(live, repeat=options.repeat, cold=options.cold)
        except errors.ShowError:
            sys.stderr.write(diagnosis.report(live) + "\n")
            raise


def _operator_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoints", type=int, default=1000, help="DynamoCheckpoints in all")
    parser.add_argument("--graphs", type=int, default=200, help="DynamoGraphDeployments")
    parser.add_argument("--rest", type=float, default=60.0, help="seconds to watch it at rest")
    parser.add_argument("--output", type=Path, default=FOLDER / "operator.json")
    parser.set_defaults(run=_operator, headline="figures")


def _operator(options: argparse.Namespace) -> Object:
    if options.checkpoints < options.graphs:
        raise errors.ShowError(
            f"--checkpoints {options.checkpoints} is less than --graphs {options.graphs}",
            hint="each graph has a checkpoint of its own",
        )
    _go_on_with_packages()
    # Only now: the modules need packages that python3 of the machine does not have.
    from showcase import fleet, machine

    with setup.running() as live, fleet.Fleet(live) as made:
        figures = made.measure(
            checkpoints=options.checkpoints, graphs=options.graphs, rest_seconds=options.rest
        )
        return {"what": "operator", "machine": machine.facts(live), **figures}


def _restore_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes", default="0.25,1,4,8", help="GiB of memory, with commas (default: 0.25,1,4,8)"
    )
    parser.add_argument("--repeat", type=int, default=3, help="restores of each kind")
    parser.add_argument("--output", type=Path, default=FOLDER / "restore.json")
    parser.set_defaults(run=_restore, headline="figures")


def _restore(options: argparse.Namespace) -> Object:
    _require_root()
    sizes = _sizes(options)
    _go_on_with_packages()
    _make_bundle()
    from showcase import machine, restores

    figures = restores.measure(sizes, options.repeat)
    return {"what": "restore", "machine": machine.facts(None), **figures}


def _require_root() -> None:
    if os.geteuid():
        raise errors.ShowError("it makes containers", hint="run it as root")


def _make_bundle() -> None:
    """CRIU and chrek-init, where modules imported from now on look for them."""
    os.environ.setdefault("CHREK_LIBEXEC", os.fspath(commands.cache() / "libexec"))
    commands.run([os.fspath(commands.ROOT / "scripts" / "build"), "bundle"])


def _sizes(options: argparse.Namespace) -> list[float]:
    try:
        return [float(word) for word in options.sizes.split(",")]
    except ValueError as err:
        raise errors.ShowError(f"--sizes {options.sizes}: {err}") from err


def _store_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default="1,4", help="GiB, with commas (default: 1,4)")
    parser.add_argument("--repeat", type=int, default=3, help="transfers of each kind")
    parser.add_argument("--only", choices=PARTS, help="one part (default: both)")
    parser.add_argument("--output", type=Path, default=FOLDER / "store.json")
    parser.set_defaults(run=_store)


def _store(options: argparse.Namespace) -> Object:
    """What was not measured stays as the file has it."""
    sizes = _sizes(options)
    parts = (options.only,) if options.only else PARTS
    if "second" in parts:
        _require_root()
    _go_on_with_packages()
    if "second" in parts:
        _make_bundle()
    from showcase import machine, second, transfers

    report: Object = json.loads(options.output.read_text()) if options.output.exists() else {}
    if "transfers" in parts:
        report |= {"what": "store", "machine": machine.facts(None)}
        report |= transfers.measure(sizes, options.repeat)
    if "second" in parts:
        report["second"] = {"machine": machine.facts(None), **second.measure(options.repeat)}
    options.headline = "figures" if "transfers" in parts else "second"
    return report


def _install_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeat", type=int, default=5, help="installations of each kind")
    parser.add_argument("--output", type=Path, default=FOLDER / "install.json")
    parser.set_defaults(run=_install, headline="figures")


def _install(options: argparse.Namespace) -> Object:
    with setup.prepared() as live:
        return installation.measure(live, repeat=options.repeat)


def _cli_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoints", type=int, default=1000, help="DynamoCheckpoints, and pods")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each command")
    parser.add_argument("--output", type=Path, default=FOLDER / "cli.json")
    parser.set_defaults(run=_cli, headline="figures")


def _cli(options: argparse.Namespace) -> Object:
    if options.checkpoints < 10:
        raise errors.ShowError(
            f"--checkpoints {options.checkpoints} is too few", hint="commands ask for the eighth"
        )
    _go_on_with_packages()
    from showcase import commandline, machine

    figures = commandline.measure(options.checkpoints, options.repeat)
    return {"what": "cli", "machine": machine.facts(None), **figures}


def _go_on_with_packages() -> None:
    """Start again in the virtual environment of scripts/test when packages are missing."""
    missing = [name for name in PACKAGES if not importlib.util.find_spec(name)]
    python = commands.cache() / "venv" / "bin" / "python"
    if not missing:
        return
    if not python.exists() or Path(sys.executable) == python:
        raise errors.ShowError(
            f"Python packages are missing: {', '.join(missing)}",
            hint="scripts/test --fast installs them",
        )
    os.execv(python, [os.fspath(python), *sys.argv])  # noqa: S606 - the same script
