"""The positions that a filter lets through, with what searches derive from them, each made once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss
from duality.index.structures.matrix import Keys, Matrix, Matrix32

# Searches that share what was derived for a filter that is kept.
EXPECTED_USES = 16
# Matches copied out for searches to come take no more memory than this.
MAX_BYTES = 64 << 20


class Candidates:
    """Positions a search may return.

    Args:
        positions: int64 [M], live, different.
        size: P, positions in all.
        kept: whether they will serve later searches too.
    """

    def __init__(self, positions: Keys, size: int, kept: bool = False) -> None:
        self.positions, self.size = positions, size
        self.uses = EXPECTED_USES if kept else 1
        # What a structure derives besides (matches per list); filled by it.
        self.derived: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def gathered(self) -> bool:
        """Whether their vectors lie ready."""
        return "rows" in self.derived

    def rows(self, matrix: Matrix) -> Matrix32:
        """Their vectors, float32 [M, D]."""
        held: Matrix32 | None = self.derived.get("rows")
        if held is None:
            held = matrix.rows(self.positions)
            if self.uses > 1 and held.nbytes <= MAX_BYTES:
                self.derived["rows"] = held
        return held

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """bool [P]."""
        mask = np.zeros(self.size, np.bool_)
        mask[self.positions] = True
        return mask

    @cached_property
    def selector(self) -> Any:
        """For FAISS; holds its own memory alive."""
        return faiss().IDSelectorBitmap(np.packbits(self.mask, bitorder="little"))
