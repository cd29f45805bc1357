"""What an index says about the histories behind it, changed in place."""

from __future__ import annotations

from typing import Any

from duality.artifacts import write_json
from duality.index.documents import write_document
from duality.index.generations import MANIFEST
from duality.index.pair import Pair


def record_dataset(pair: Any, dataset: dict[str, str]) -> None:
    """Write `path` and `fingerprint` of the dataset into the current generation, atomically and durably.

    Args:
        pair: an index opened with mode "w", in files or on a store.
        dataset: `path` relative to the index folder, and `fingerprint`.
    """
    pair.manifest["dataset"] = dataset
    if isinstance(pair, Pair):
        write_document(pair.folder / MANIFEST, pair.manifest)
    else:
        from duality.index.remote.manifest import MARKER

        write_json(pair.path / MARKER, pair.manifest)
