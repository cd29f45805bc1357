"""`calibration.json` beside a model's weights: the map from its scores to probabilities.

Reads and writes: one JSON document with the model's fingerprint and a checksum of the rest, so that
a map of other weights, or a damaged one, is refused. Imports no torch: queries read it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from duality.artifacts import read_json, write_json
from duality.calibration import Map, map_from
from duality.errors import DamageError, InputError

FILE, FORMAT = "calibration.json", 1
MAKE = "duality calibrate --impressions FILE"


def write_calibration(folder: Path, fingerprint: str, chosen: Map, facts: dict[str, Any]) -> None:
    """Store a map with a model, and `facts` about how it was fitted."""
    document = {"format": FORMAT, "model": fingerprint, "map": chosen.as_dict(), **facts}
    write_json(folder / FILE, {**document, "sha256": _digest(document)})


def read_calibration(folder: Path, fingerprint: str) -> Map:
    """The map stored with a model.

    Args:
        folder: the model folder.
        fingerprint: of the weights whose scores are to be mapped.

    Raises:
        InputError: there is none, or it belongs to other weights.
        DamageError: it is damaged.
    """
    if not (folder / FILE).is_file():
        raise InputError(
            f"the model {folder} has no score calibration: make one with `{MAKE} --model {folder}`"
        )
    document = read_json(folder / FILE, what="score calibration", make=MAKE)
    held = document.pop("sha256", None) if isinstance(document, dict) else None
    if held is None or held != _digest(document) or document.get("format") != FORMAT:
        raise DamageError(f"{folder / FILE} is damaged: make it again with `{MAKE} --model {folder}`")
    if document["model"] != fingerprint:
        raise InputError(
            f"{folder / FILE} belongs to weights {document['model']}, not to {fingerprint}: "
            f"make it again with `{MAKE} --model {folder}`"
        )
    try:
        return map_from(document["map"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamageError(
            f"{folder / FILE} holds no usable map ({error}): make it again with `{MAKE}`"
        ) from None


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
