"""One family of samplers for training's negatives and evaluation's candidates.

Every sampler draws ids with replacement and knows the log-probability of its declared distribution
per draw, for any id asked for. Draws come from an `np.random.Generator`: same generator, same ids.

| Spec                       | Draws                                        | Probability of a draw        |
|----------------------------|----------------------------------------------|------------------------------|
| `uniform`                  | any row                                      | 1 / N                        |
| `popularity:BETA`          | rows with events                             | proportional to count ^ BETA |
| `batch`                    | members of the current batch                 | count / all events           |
| `hard:K`                   | the K best of an index for the batch's queries | mean over queries of 1 / K |
| `mixture:W*SPEC+W*SPEC`    | from one of them, chosen with odds W         | weighted mean                |

The distribution of `batch` is that of a member of a random batch, not of this one: given the batch,
most rows could not be drawn at all. `hard` depends on the query vectors and reaches only what the
index returns; in a mixture with `uniform` it reaches everything.

Numpy only. Not here: their names in recipes (sampler_specs.py), the loss that negatives enter
(model/losses.py).

Shapes: N rows of the sampled side, n draws, B rows of a batch, Q query vectors, D dimensions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


class Searchable(Protocol):
    """An index side, as far as `hard` needs it."""

    def search(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Ids [Q, k], padded with None (or -1), and scores [Q, k], best first."""


@dataclass(frozen=True, eq=False)
class Context:
    """What a draw may depend on; samplers that need nothing ignore it.

    Args:
        batch: int64 [B], rows of the sampled side that are in the current batch.
        queries: float32 [Q, D], vectors whose nearest rows are hard negatives.
    """

    batch: Ids | None = None
    queries: NDArray[np.float32] | None = None


NOTHING = Context()


class Sampler(ABC):
    """Draws rows of one side, numbered 0 to `size - 1`, with replacement."""

    size: int
    needs_queries: bool = False  # whether a draw reads Context.queries

    @abstractmethod
    def draw(self, n: int, rng: np.random.Generator, context: Context = NOTHING) -> tuple[Ids, Floats]:
        """n ids, int64 [n], and the natural logs of their probabilities, float64 [n]."""

    @abstractmethod
    def log_prob(self, ids: Ids, context: Context = NOTHING) -> Floats:
        """Log-probability per draw of any ids, float64 of the same shape; -inf if never drawn."""

    def candidates(self, n: int, rng: np.random.Generator, context: Context = NOTHING) -> tuple[Ids, Floats]:
        """Distinct rows of n draws, and what to add to their scores so that they stand for all N.

        Returns:
            ids int64 [M], ascending, and minus the log of the probability that n independent draws
            hold the id, float64 [M]: a sum over the ids of exp(score + this) is unbiased for the sum
            over all rows. For rare rows it is the usual correction -log(n q); it differs where a
            row is drawn several times. For `batch` the draws are not independent and it is close.
        """
        ids, log_prob = self.draw(n, rng, context)
        ids, first = np.unique(ids, return_index=True)
        missed = np.log1p(-np.minimum(np.exp(log_prob[first]), 1.0 - 1e-16))
        return ids, -np.log(-np.expm1(n * missed))


class Uniform(Sampler):
    """Every row alike."""

    def __init__(self, size: int) -> None:
        self.size = size

    def draw(self, n: int, rng: np.random.Generator, context: Context = NOTHING) -> tuple[Ids, Floats]:
        ids = rng.integers(self.size, size=n)
        return ids, self.log_prob(ids)

    def log_prob(self, ids: Ids, context: Context = NOTHING) -> Floats:
        return np.full(np.shape(ids), -math.log(self.size))

    def candidates(self, n: int, rng: np.random.Generator, context: Context = NOTHING) -> tuple[Ids, Floats]:
        """As `Sampler.candidates`, given how many were distinct: log(N / M), which varies less."""
        ids = np.unique(rng.integers(self.size, size=n))
        return ids, np.full(len(ids), math.log(self.size / len(ids)))


class Popularity(Sampler):
    """Rows with odds count ^ beta; rows without events are never drawn.

    Args:
        counts: [N], events per row, finite and >= 0.
        beta: 0 is uniform over the rows with events, 1 is their share of events.

    Cost: one binary search per draw, in a table of N cumulative sums.
    """

    def __init__(self, counts: NDArray[Any], beta: float = 1.0) -> None:
        weights = np.asarray(counts, dtype=np.float64)
        if not np.isfinite(weights).all() or (weights < 0).any() or not (weights > 0).any():
            raise ValueError("counts must be finite and >= 0, and one of them above 0")
        self.size = len(weights)
        # Relative to the largest, so that no power overflows.
        odds = np.power(weights / weights.max(), beta, out=np.zeros_like(weights), where=weights > 0)
        with np.errstate(divide="ignore"):
            self._log_prob = np.log(odds / odds.sum())
        self._until = np.cumsum(odds)
        self._until /= self._until[-1]

    def draw(self, n: int, rng: np.random.Generator, context: Context = NOTHING) -> tuple[Ids, Floats]:
        # Ascending numbers walk the table in order, which is several times faster than jumping in it.
        ids = rng.permutation(np.searchsorted(self._until, np.sort(rng.random(n)), side="right"))
        return ids, self._log_prob[ids]

    def log_prob(self, ids: Ids, context: Context = NOTHING) -> Floats:
        return self._log_prob[ids]


class InBatch(Sampler):
    """Members of the batch, alike and without replacement (with, once the batch is used up).

    Args:
        counts: [N], events per row: a member of a random batch is row j with count_j / sum.
    """

    def __init__(self, counts: NDArray[Any]) -> None:
        self._law = Popularity(counts)
        self.size = self._law.size

    def draw(self, n: int, rng: np.random.Generator, context: Context = NOTHING) -> tuple[Ids, Floats]:
        if context.batch is None or not len(context.batch):
            raise ValueError("in-batch negatives need a batch")
        batch = context.batch
        picked = rng.permutation(len(batch))[:n] if n <= len(batch) else rng.integers(len(batch), size=n)
        ids = np.asarray(batch[picked], dtype=np.int64)
        return ids, self.log_prob(ids)

    def log_prob(self, ids: Ids, context: Context = NOTHING) -> Floats:
        return self._law.log_prob(ids)


class Hard(Sampler):
    """One of the k best of an index for one of the queries, both drawn alike.

    Args:
        size: N.
        side: the index; searched once per draw and once per `log_prob`, with the context's queries.
        k: results per query, >= 1.
        row_of: maps the index's ids (an array without padding) to rows int64; by default they are rows.
    """

    needs_queries = True

    def __init__(
        self, size: int, side: Searchable, k: int, row_of: Callable[[NDArray[Any]], Ids] | None = None
    ) -> None:
        self.size, self.side, self.k, self.row_of = size, side, k, row_of

    def draw(self, n: int, rng: np.random.Generator, context: Context = NOTHING) -> tuple[Ids, Floats]:
        rows, prob = self._found(context)
        picked = np.searchsorted(np.cumsum(prob) / prob.sum(), rng.random(n), side="right")
        return rows[picked], np.log(prob[picked])

    def log_prob(self, ids: Ids, context: Context = NOTHING) -> Floats:
        rows, prob = self._found(context)
        place = np.searchsorted(rows, ids).clip(max=len(rows) - 1)
        with np.errstate(divide="ignore"):
            return np.log(np.where(rows[place] == ids, prob[place], 0.0))

    def _found(self, context: Context) -> tuple[Ids, Floats]:
        """Distinct rows that the index returns, ascending, and their probabilities."""
        if context.queries is None or not len(context.queries):
            raise ValueError("hard negatives need query vectors")
        ids = np.asarray(self.side.search(context.queries, self.k)[0])
        real = ids != np.array(None) if ids.dtype == object else ids >= 0
        if not real.any():
            raise ValueError("the index returned nothing for any query")
        share = (real / np.maximum(real.sum(axis=1, keepdims=True), 1))[real]
        found = ids[real]
        rows = np.asarray(found if self.row_of is None else self.row_of(found), dtype=np.int64)
        distinct, place = np.unique(rows, return_inverse=True)
        return distinct, np.bincount(place, weights=share) / real.any(axis=1).sum()


class Mixture(Sampler):
    """A sampler chosen per draw; probabilities are those of the mixture, whichever was chosen.

    Args:
        parts: samplers of the same side.
        weights: odds, each above 0; scaled to sum to one.
    """

    def __init__(self, parts: Sequence[Sampler], weights: Sequence[float]) -> None:
        odds = np.asarray(weights, dtype=np.float64)
        if len({part.size for part in parts}) != 1 or len(odds) != len(parts) or not (odds > 0).all():
            raise ValueError("a mixture needs samplers of one side and a weight above 0 for each")
        self.parts, self.weights, self.size = tuple(parts), odds / odds.sum(), parts[0].size
        self.needs_queries = any(part.needs_queries for part in parts)

    def draw(self, n: int, rng: np.random.Generator, context: Context = NOTHING) -> tuple[Ids, Floats]:
        shares = rng.multinomial(n, self.weights)
        drawn = [
            part.draw(int(share), rng, context)[0]
            for part, share in zip(self.parts, shares, strict=True)
            if share
        ]
        ids = rng.permutation(np.concatenate(drawn)) if drawn else np.empty(0, np.int64)
        return ids, self.log_prob(ids, context)

    def log_prob(self, ids: Ids, context: Context = NOTHING) -> Floats:
        logs = [
            part.log_prob(ids, context) + math.log(weight)
            for part, weight in zip(self.parts, self.weights, strict=True)
        ]
        return np.logaddexp.reduce(logs, axis=0)
