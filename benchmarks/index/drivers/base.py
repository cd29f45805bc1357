"""What every engine is asked to do. Rows are int64 numbers; a driver turns them into the engine's ids.

Shapes: N vectors, Q queries, k results, D dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from index.worlds import Matrix32, Rows

# Search efforts that are tried in order until the recall is reached.
LADDER = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048)


class Driver(ABC):
    """An engine in a folder.

    Args:
        folder: where it keeps its files.
        dim: D.
        threads: what it may use.
    """

    efforts: Sequence[int] = LADDER

    def __init__(self, folder: Path, dim: int, threads: int) -> None:
        self.folder, self.dim, self.threads = folder, dim, threads

    @abstractmethod
    def build(self, vectors: Matrix32) -> None:
        """Store rows 0 to N - 1, index them, and leave them on disk where the engine has files."""

    @abstractmethod
    def open(self) -> None:
        """Open what an earlier process left, for writing."""

    @abstractmethod
    def use(self, effort: int) -> None:
        """Search with this effort from now on."""

    @abstractmethod
    def search(self, queries: Matrix32, k: int) -> Rows:
        """Row numbers [Q, k], -1 for none."""

    @abstractmethod
    def upsert(self, rows: Rows, vectors: Matrix32) -> None:
        """Insert or replace; acknowledged by returning."""

    @abstractmethod
    def delete(self, rows: Rows) -> None:
        """Remove; acknowledged by returning."""

    @abstractmethod
    def held(self, rows: Rows) -> int:
        """How many of the rows are there."""

    def settle(self) -> bool:
        """What the engine offers to become fast again after many writes; whether it offers anything."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Let go of files and processes."""


class Lengthened:
    """[x, sqrt(M² - |x|²)]: graphs miss neighbours by inner product unless all vectors are of one length."""

    def __init__(self, vectors: Matrix32) -> None:
        self._square = float((vectors**2).sum(axis=1).max(initial=0.0))

    def stored(self, vectors: Matrix32) -> Matrix32:
        """Vectors [N, D] as [N, D + 1]; 0 for those longer than M."""
        rest = np.sqrt(np.maximum(self._square - (vectors**2).sum(axis=1), 0.0))
        return np.concatenate([vectors, rest[:, None]], axis=1, dtype=np.float32)

    def asked(self, queries: Matrix32) -> Matrix32:
        """Queries [Q, D] as [Q, D + 1]."""
        return np.concatenate([queries, np.zeros((len(queries), 1), np.float32)], axis=1)
