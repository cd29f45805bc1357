"""The positions that a filter lets through, with what searches derive from them, each made once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss
from duality.index.structures.matrix import Keys


class Candidates:
    """Positions a search may return.

    Args:
        positions: int64 [M], live, different.
        size: P, positions in all.
    """

    def __init__(self, positions: Keys, size: int) -> None:
        self.positions, self.size = positions, size
        # What a structure derives besides (matches per list); filled by it.
        self.derived: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.positions)

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
