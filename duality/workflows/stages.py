"""Stages of a recipe: each is skipped when its inputs and its output are those of the last run.

Writes: a stamp file with, per stage, the fingerprint of its inputs, of its output, and its result.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duality.artifacts import checksum, fingerprint, write_json
from duality.runtime import say


@dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    Args:
        name: as printed.
        inputs: everything that, when changed, makes the output out of date.
        output: the file whose bytes stand for the output.
        action: runs the stage and returns its document.
    """

    name: str
    inputs: Callable[[], Any]
    output: Path
    action: Callable[[], dict[str, Any]]


def run_stages(stages: list[Stage], stamps: Path) -> dict[str, dict[str, Any]]:
    """Run what is out of date, in order.

    Returns:
        {stage: its document, with `skipped` true when nothing had to be done}.
    """
    known = _read(stamps)
    results = {}
    for number, stage in enumerate(stages, 1):
        inputs = fingerprint(json.dumps(stage.inputs(), sort_keys=True, default=str))
        last = known.get(stage.name, {})
        if (
            last.get("inputs") == inputs
            and stage.output.exists()
            and last.get("output") == checksum(stage.output)
        ):
            say(f"[{number}/{len(stages)}] {stage.name}: up to date, reusing {stage.output.parent}")
            results[stage.name] = {**last["result"], "skipped": True}
            continue
        say(f"[{number}/{len(stages)}] {stage.name}")
        document = stage.action()
        known[stage.name] = {"inputs": inputs, "output": checksum(stage.output), "result": document}
        write_json(stamps, known)
        results[stage.name] = {**document, "skipped": False}
    return results


def content(path: Path) -> str:
    """Fingerprint of a file, or of every file directly in a folder; "" when there is neither."""
    if path.is_dir():
        return fingerprint(
            *(f"{file.name} {checksum(file)}" for file in sorted(path.iterdir()) if file.is_file())
        )
    return checksum(path) if path.exists() else ""


def _read(stamps: Path) -> dict[str, Any]:
    try:
        value = json.loads(stamps.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
