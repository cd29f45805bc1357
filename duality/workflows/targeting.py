"""`duality target`: the index as a targeting run sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from duality.artifacts import fingerprint
from duality.index.pair import Pair
from duality.index.side import Side
from duality.index.stores import open_index


class _Items:
    def __init__(self, side: Side) -> None:
        self._side = side

    def get_vectors(self, ids: Sequence[str]) -> np.ndarray:
        return self._side.vectors(ids)


class OpenedForTargeting:
    """Users with vectors, items by id, and the identity of both."""

    def __init__(self, pair: Pair) -> None:
        self.users, self.items = pair.users, _Items(pair.items)
        model = pair.manifest.get("model") or {}
        self.fingerprint = fingerprint(
            str(model.get("fingerprint")),
            str(pair.manifest.get("created")),
            str(pair.users.version),
            str(pair.items.version),
        )


def open_for_targeting(path: Path) -> OpenedForTargeting:
    """Open an index for `duality.targeting.run.target`.

    Raises:
        InputError: no index there.
    """
    return OpenedForTargeting(open_index(path))
