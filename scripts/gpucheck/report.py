"""Rates, ratios and the table of what was measured."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from showcase import table

Object = dict[str, Any]
OWN_AIM_SECONDS = 0.07
"""Of a restore, beside CRIU and the driver."""
_DEVICE = ("gpu_checkpoint", "gpu_restore")
_CAPTURE = ("gpu_lock", "gpu_checkpoint", "dump", "files", "digest", "sync", "total")
_RESTORE = ("stage", "criu", "gpu_restore", "gpu_unlock", "total")


def add_rates(one: Object) -> None:
    """GB/s of a round's stages: of device memory on the GPU, of the artifact everywhere else."""
    device = one.get("worker", {}).get("device_bytes", 0)
    for part, stages in (("capture", _CAPTURE), ("restore", _RESTORE)):
        if part not in one:
            continue
        artifact = one["capture"]["artifact_bytes"]
        seconds = one[part]["seconds"]
        one[part]["gb_per_second"] = {
            stage: round((device if stage in _DEVICE else artifact) / seconds[stage] / 1e9, 3)
            for stage in stages
            if seconds.get(stage) and stage not in ("gpu_lock", "gpu_unlock", "files", "stage")
        }


def ratios(one: Object, limits: Object) -> Object:
    """A round's rates as parts of what the machine can do at all."""
    found: Object = {}
    capture = one.get("capture", {}).get("gb_per_second", {})
    restored = one.get("restore", {}).get("gb_per_second", {})
    pairs = (
        (
            "gpu_checkpoint_of_device_to_host",
            capture.get("gpu_checkpoint"),
            "device_to_host_pinned",
        ),
        ("gpu_restore_of_host_to_device", restored.get("gpu_restore"), "host_to_device_pinned"),
        ("dump_of_disk_write", capture.get("dump"), "disk_write"),
        ("dump_of_host_copy", capture.get("dump"), "host_copy"),
        ("criu_of_disk_read", restored.get("criu"), "disk_read"),
        ("criu_of_first_touch", restored.get("criu"), "first_touch"),
    )
    for name, rate, limit in pairs:
        if rate and limits.get(limit):
            found[name] = round(rate / limits[limit], 3)
    return found


def finish(report: Object) -> None:
    """Add what follows from the rest, and the verdict."""
    for one in report["rounds"]:
        add_rates(one)
        one["ratios"] = ratios(one, report["limits"])
    report["figures"] = figures(report)
    ran = [*report["rounds"], *([report["direct"]] if report["direct"] else [])]
    report["verified"] = bool(ran) and all(one["verified"] for one in ran)


def figures(report: Object) -> Object:
    """What the aims are about."""
    own = [one["restore"]["own_seconds"] for one in report["rounds"] if "restore" in one]
    found: Object = {}
    if own:
        middle = round(statistics.median(own), 4)
        found["own_seconds_of_a_restore"] = {
            "median": middle,
            "most": round(max(own), 4),
            "aim": OWN_AIM_SECONDS,
            "aim_met": middle <= OWN_AIM_SECONDS,
        }
    if "summary" in (report["direct"] or {}):
        found["driver_of_by_hand"] = report["direct"]["summary"]["of_by_hand"]
    return found


def write(report: Object, path: Path) -> None:
    """All of it or nothing, so that an end in the middle leaves the last whole one."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(fresh, path)


def render(report: Object) -> str:
    """For the terminal."""
    lines = [""]
    if report["rounds"]:
        for part, stages in (("capture", _CAPTURE), ("restore", _RESTORE)):
            rows = [_row(one, part, stages) for one in report["rounds"]]
            lines += [table.render([f"{part}, s (GB/s)", *stages, "verified"], rows), ""]
    direct = report["direct"]
    if direct and "summary" in direct:
        lines += [_direct_table(direct), ""]
    if report["limits"]:
        text = ", ".join(f"{name} {rate:.2f}" for name, rate in report["limits"].items())
        lines.append(f"limits, GB/s: {text}")
    for name, figure in report["figures"].items():
        lines.append(f"{name}: {json.dumps(figure)}")
    for one in [*report["rounds"], *([direct] if direct else [])]:
        if not one["verified"]:
            lines.append(f"NOT VERIFIED {one.get('workload', 'direct')}: {wrong(one)}")
    lines += [f"SKIPPED {one['what']}: {one['why']}" for one in report["skipped"]]
    lines += [f"CRIU CANNOT RUN: {why}" for why in report["criu"].get("why", [])]
    lines.append("every byte was verified" if report["verified"] else "NOT verified")
    return "\n".join(lines)


def wrong(one: Object) -> str:
    """What a round found, in one text."""
    if "error" in one:
        return str(one["error"])
    parts: Sequence[Object] = [one.get("went_on", {}), one.get("restored", {}), one]
    return "; ".join(str(text) for part in parts for text in part.get("wrong", ()))


def _row(one: Object, part: str, stages: Sequence[str]) -> list[str]:
    name = f"{one['workload']} {one['gibibytes']:.3g} GiB"
    if one["source_gpus"] != one["target_gpus"]:
        name += ", other GPU"
    seconds = one.get(part, {}).get("seconds", {})
    rates = one.get(part, {}).get("gb_per_second", {})
    cells = [name]
    for stage in stages:
        text = f"{seconds[stage]:.3f}" if stage in seconds else "-"
        cells.append(f"{text} ({rates[stage]:.1f})" if stage in rates else text)
    return [*cells, "yes" if one["verified"] else "NO"]


def _direct_table(direct: Object) -> str:
    found = direct["summary"]
    header = ["without CRIU", *found["seconds"]]
    rows = [
        [title, *(f"{value:.4f}" for value in found[key].values())]
        for title, key in (("by chrek's helper, s", "seconds"), ("by hand, s", "by_hand_seconds"))
    ]
    rates = found["gb_per_second"]
    rows.append(
        ["GB/s", *(f"{rates[step]:.2f}" if step in rates else "-" for step in found["seconds"])]
    )
    return table.render(header, rows)
