"""What every search structure over the vectors of one side shares.

A structure is derived data. It packs itself into plain arrays and unpacks from them in time that
does not depend on N x D: the matrix stays where it is, often a mapped file.

All kinds give true inner products as scores, higher is better.

Threads: `search`, `plan` and `tune` may run together, beside one `expect` or call of `staging`;
`add`, `remove`, `pack` and each step of what `staging` returns must run alone.

Shapes: N vectors, Q queries, k results, D dimensions, P positions (live or dead).
Notation: key, the record store's integer; position, where the matrix holds its vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from duality.index.structures.candidates import Candidates
from duality.index.structures.costs import gathering_pays
from duality.index.structures.labels import Labels
from duality.index.structures.matrix import Keys, Matrix, Matrix32
from duality.index.structures.plan import Plan
from duality.index.structures.results import Found, nothing, ordered
from duality.index.structures.sampling import Sample, depths, draw
from duality.index.structures.scanning import scan, scan_masked, scan_some

__all__ = ["Arrays", "Found", "Keys", "Matrix32", "Packed", "Plan", "Streamed", "Structure"]

Setting = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Streamed:
    """An array that is written block by block, since it may not fit in memory.

    Args:
        shape: of the whole array.
        dtype: of the whole array.
        blocks: gives the array's rows in order, some at a time; may be called again.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[NDArray[Any]]]

    def array(self) -> NDArray[Any]:
        """All of it in memory."""
        whole, start = np.empty(self.shape, self.dtype), 0
        for block in self.blocks():
            whole[start : start + len(block)] = block
            start += len(block)
        return whole


Packed = tuple[dict[str, Any], dict[str, NDArray[Any] | Streamed]]


class Structure(ABC):
    """Vectors by key, and the k best of them for a query.

    Args:
        matrix: the vectors by position.
        labels: the keys by position.
        settings: JSON-able: `kind`, the spec's options, what the build chose.
    """

    kind = ""

    def __init__(self, matrix: Matrix, labels: Labels, settings: Setting) -> None:
        self.matrix, self.labels, self.settings = matrix, labels, dict(settings)
        self._revision = 0
        self._prepared: tuple[Keys, int, Candidates] | None = None
        self._sample: Sample | None = None
        # The revision at which the sample was good.
        self._sampled_at = -1

    @property
    def count(self) -> int:
        """Live vectors."""
        return self.labels.count

    @property
    def dim(self) -> int:
        """D."""
        return self.matrix.base.shape[1]

    def keys(self) -> Keys:
        """Live keys, ascending."""
        return self.labels.keys()

    def vectors_of(self, keys: Keys) -> Matrix32:
        """float32 [N, D] of stored keys.

        Raises:
            KeyError: a key is not held.
        """
        positions = self.labels.positions_of(keys)
        if (positions < 0).any():
            raise KeyError(int(np.asarray(keys)[positions < 0][0]))
        return self.matrix.rows(positions)

    def add(self, keys: Keys, vectors: Matrix32) -> None:
        """Store vectors under keys, replacing what the keys held.

        Args:
            keys: int64 [N], no repeats.
            vectors: float32 [N, D], finite.

        Raises:
            ValueError: shapes differ, or a key is out of range or repeated; nothing has changed.
        """
        for _ in self.staging(keys, vectors):
            pass

    def staging(self, keys: Keys, vectors: Matrix32) -> Iterator[None]:
        """`add` in short steps; searches between them see the state before the first.

        The batch appears as a whole in the last step. Exhaust the iterator, with no other `add`
        since the call; one that is dropped half-way leaves the structure as it was, apart from memory.
        """
        keys, vectors = self._checked(keys, vectors)
        self.expect(keys)
        return self._steps(keys, self._appending(keys, vectors))

    def _steps(self, keys: Keys, append: Callable[[], None]) -> Iterator[None]:
        if len(keys):
            self.remove(keys)
            append()
            self._revision += 1
        yield

    def expect(self, keys: Keys) -> None:
        """Do what a `remove` of these keys can do beforehand."""
        # The table by key is made when it is first asked.
        self.labels.positions_of(keys[:1])

    def remove(self, keys: Keys) -> None:
        """Forget keys; unknown ones are ignored."""
        positions = self.labels.positions_of(keys)
        positions = positions[positions >= 0]
        if len(positions) > 1:
            positions = np.unique(positions)
        if len(positions):
            self._erase(positions)
            self.labels.drop(positions)
            self._revision += 1

    def search(
        self,
        queries: Matrix32,
        k: int,
        allowed: Keys | None = None,
        *,
        exact: bool = False,
        setting: Setting | None = None,
        device: str | None = None,
    ) -> Found:
        """Best k keys per query.

        Args:
            queries: float32 [Q, D], finite, C order.
            k: how many; fewer when fewer are live and allowed.
            allowed: keys to choose from, no repeats; None for all. What is derived from a read-only
                array is kept for the next search with that same array.
            exact: score every candidate.
            setting: search setting for this call, instead of the stored one.
            device: where an exact search runs, as torch names it; None for FAISS on the processor.

        Returns:
            Scores float32 [Q, k'] and keys int64 [Q, k'], k' = min(k, candidates), best first, equal
            scores by ascending key. An approximate search may find fewer: key -1, score -inf.

        Raises:
            InputError: the device cannot be used.
        """
        candidates = None if allowed is None else self._candidates(allowed)
        k = min(k, self.count if candidates is None else len(candidates))
        if k <= 0 or not len(queries):
            return nothing(len(queries))
        if device is not None and (exact or self.kind == "exact"):
            return self._named(self._scan_on(device, queries, k, candidates))
        if candidates is None:
            find = scan(self.matrix, self.labels, queries, k) if exact else self._find(queries, k, setting)
            return self._named(find)
        if exact:
            return self._named(self._scan_candidates(queries, k, candidates))
        return self._named(self._find_among(queries, k, candidates, setting))

    def plan(
        self,
        k: int,
        matches: int | None = None,
        *,
        exact: bool = False,
        queries: Matrix32 | None = None,
        allowed: Keys | None = None,
    ) -> Plan:
        """What a search would do.

        Args:
            k: results per query.
            matches: how many vectors the filter lets through; None without a filter.
            exact: as for `search`.
            queries: float32 [Q, D]; where they lie decides for graphs and lists.
            allowed: as for `search`; what `matches` counts.
        """
        candidates = None if allowed is None else self._candidates(allowed)
        if candidates is not None:
            matches = len(candidates)
        if matches is not None:
            matches = min(matches, self.count)
        if exact or self.count == 0:
            return self._plan_scan(matches, 1 if queries is None else len(queries), candidates)
        return self._plan(k, matches, queries, candidates)

    def use(self, setting: Setting) -> None:
        """Search with this setting from now on, as `tune` found it."""
        self.settings["search"] = dict(setting)

    def stale(self) -> str | None:
        """Why rebuilding pays, in a phrase; None while it does not."""
        if self.labels.dead > self.count + 1_000:
            return f"{self.labels.dead:,} removed vectors beside {self.count:,} live ones"
        return None

    @abstractmethod
    def pack(self) -> Packed:
        """Settings and arrays that `unpack` understands: no removed vectors, positions renumbered."""

    @classmethod
    @abstractmethod
    def unpack(cls, settings: Setting, arrays: Arrays) -> Self:
        """A structure over arrays that are read in place, as long as it lives.

        Raises:
            DamageError: settings and arrays do not fit together.
        """

    @abstractmethod
    def _append(self, keys: Keys, vectors: Matrix32) -> None:
        """Give the next positions to keys not held."""

    def _appending(self, keys: Keys, vectors: Matrix32) -> Callable[[], None]:
        """`_append` to be called, after whatever of it may run beside searches."""
        return partial(self._append, keys, vectors)

    @abstractmethod
    def _find(self, queries: Matrix32, k: int, setting: Setting | None) -> Found:
        """Best k positions; -1 pads. 1 <= k <= count."""

    @abstractmethod
    def _find_among(
        self, queries: Matrix32, k: int, candidates: Candidates, setting: Setting | None
    ) -> Found:
        """As `_find`, among candidates. 1 <= k <= len(candidates)."""

    @abstractmethod
    def _plan(
        self, k: int, matches: int | None, queries: Matrix32 | None, candidates: Candidates | None
    ) -> Plan:
        """As `plan`, for an approximate search."""

    def _erase(self, positions: Keys) -> None:  # noqa: B027
        """Forget live positions; the labels follow."""

    def _checked(self, keys: Keys, vectors: Matrix32) -> tuple[Keys, Matrix32]:
        keys = np.ascontiguousarray(keys, np.int64)
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.shape != (len(keys), self.dim):
            raise ValueError(f"{len(keys)} keys and vectors {vectors.shape} for dimension {self.dim}")
        # Most callers give them ascending.
        if (keys[1:] <= keys[:-1]).any() and len(np.unique(keys)) < len(keys):
            raise ValueError("a key is repeated")
        Labels.check(keys)
        return keys, vectors

    def _candidates(self, allowed: Keys) -> Candidates:
        held = self._prepared
        if held is not None and held[0] is allowed and held[1] == self._revision:
            return held[2]
        positions = self.labels.positions_of(allowed)
        kept = not allowed.flags.writeable
        candidates = Candidates(positions[positions >= 0], len(self.matrix), kept)
        if kept:
            self._prepared = (allowed, self._revision, candidates)
        return candidates

    def depths(self, queries: Matrix32, k: int, candidates: Candidates) -> NDArray[np.float64]:
        """About how many vectors score at least as high as the k-th best candidate, float64 [Q]."""
        return depths(self._sampled(), queries, k, candidates, self.count)

    def _sampled(self) -> Sample:
        """A sample of the live vectors."""
        held = self._sample
        if held is not None and self._sampled_at == self._revision:
            return held
        if held is None or not self._still_good(held):
            held = self._sample = draw(self.matrix, np.flatnonzero(self.labels.by_position >= 0))
        self._sampled_at = self._revision
        return held

    def _still_good(self, sample: Sample) -> bool:
        dead = int(np.count_nonzero(self.labels.by_position[sample.positions] < 0))
        return not sample.outgrown(len(self.matrix)) and 8 * dead <= len(sample.positions)

    def _scan_candidates(self, queries: Matrix32, k: int, candidates: Candidates) -> Found:
        uses = len(queries) * candidates.uses
        if candidates.gathered or gathering_pays(uses, len(candidates), candidates.size, self.dim):
            return scan_some(candidates.rows(self.matrix), queries, k, candidates.positions)
        return scan_masked(self.matrix, queries, k, candidates.mask)

    def _scan_on(self, device: str, queries: Matrix32, k: int, candidates: Candidates | None) -> Found:
        from duality.index.structures.device import scan_on

        positions = None if candidates is None else candidates.positions
        if positions is None and self.labels.dead:
            positions = np.flatnonzero(self.labels.by_position >= 0)
        return scan_on(device, self.matrix, queries, k, positions)

    def _plan_scan(self, matches: int | None, queries: int, candidates: Candidates | None = None) -> Plan:
        if matches is None:
            return Plan("scan", f"all {self.count:,} vectors are scored", self.count)
        uses = queries * (candidates.uses if candidates else 1)
        if gathering_pays(uses, matches, len(self.matrix), self.dim):
            reason = (
                f"{matches:,} of {self.count:,} vectors match: copying them out and scoring them is cheapest"
            )
            return Plan("gather and scan", reason, matches)
        reason = f"{matches:,} of {self.count:,} vectors match: scoring them in place is cheapest"
        return Plan("scan", reason, matches)

    def _named(self, found: Found) -> Found:
        scores, positions = found
        keys = self.labels.by_position.take(positions, mode="wrap")
        # Nothing found comes last.
        if np.count_nonzero(positions[:, -1] < 0):
            keys[positions < 0] = -1
            scores[positions < 0] = -np.inf
        return ordered(scores, keys)
