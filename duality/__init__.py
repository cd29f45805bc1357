"""Two-sided retrieval for recommenders: items for users, and users for items, in one space.

Public entry points, imported when first used: `Index`, `import_events`, `train`, `build_index`,
`evaluate`, `compare`, `calibrate`, `target`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Index", "build_index", "calibrate", "compare", "evaluate", "import_events", "target", "train"]

_HOME = {
    "Index": "duality.workflows.index",
    "import_events": "duality.data.importing",
    "train": "duality.workflows.api",
    "build_index": "duality.workflows.api",
    "evaluate": "duality.workflows.api",
    "compare": "duality.workflows.api",
    "calibrate": "duality.workflows.api",
    "target": "duality.workflows.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'duality' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
