"""Whether centroids still fit: what was added since the build, and how far from its centroid it lay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from duality.index.structures.checks import integer_in, number_in
from duality.index.structures.matrix import Matrix32

# Added vectors that lie this much further (squared) from their centroid than those of the build did.
FARTHER = 1.25
# Fewer than this many additions say nothing.
ENOUGH, ENOUGH_SHARE = 500, 0.1


class Drift:
    """Counts additions.

    Args:
        settings: `built`, `spread` (mean squared distance to the centroid at the build), and
            `added`, `added_spread` as `settings()` gave them.

    Raises:
        ValueError: one is missing or not a number.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.built = integer_in(settings, "built", 0, 1 << 40)
        self.spread = number_in(settings, "spread", 0, 1e60)
        self.added = integer_in({"added": 0, **settings}, "added", 0, 1 << 60)
        self.added_spread = number_in({"added_spread": 0.0, **settings}, "added_spread", 0, 1e60)

    def saw(self, distances: Matrix32) -> None:
        """Take note of added vectors, by squared distance [N] to their centroids."""
        total = self.added_spread * self.added + float(distances.sum(dtype=np.float64))
        self.added += len(distances)
        self.added_spread = total / max(self.added, 1)

    def settings(self) -> dict[str, Any]:
        """What to keep."""
        return {"added": self.added, "added_spread": self.added_spread}

    def stale(self, count: int) -> str | None:
        """Why centroids should be trained again; `count` is how many vectors are live."""
        if count > 4 * self.built + 1_000:
            return f"grown from {self.built:,} to {count:,} vectors since the lists were trained"
        enough = max(ENOUGH, ENOUGH_SHARE * self.built)
        if self.added >= enough and self.added_spread > FARTHER * self.spread:
            ratio = self.added_spread / max(self.spread, 1e-30)
            return f"vectors added since lie {ratio:.1f} times as far (squared) from their centroids"
        return None
