"""Rank of the hidden target among its candidates, in blocks of queries.

Candidates of a query: everything of a pool (pools.py) that is not visibly seen with the
source, plus the target. Ties count against the target: rank = 1 + the number of other
candidates with a score at least as high. A scorer that gives every candidate the same
score is therefore last, not lucky.

Cost:   one [B, N] float block of scores at a time, about 10 MB, 256 MB for a million candidates.
Shapes: Q queries, B queries of a block, N rows of the asked side, n sampled negatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse

from duality.errors import DualityError, InputError
from duality.evaluation.pools import Pool, allowed_rows, pools_for
from duality.evaluation.queries import Queries, World, seen_csr
from duality.runtime import progress
from duality.samplers import Popularity, Sampler, Uniform

# Blocks fit the cache, but a product of a few rows would read all vectors for each of them.
_BLOCK_CELLS, _LEAST_ROWS, _BLOCK_ROWS = 2_500_000, 64, 256
_MOST_CELLS = 64_000_000


class Scorer(Protocol):
    """Anything that scores the whole asked side for a block of queries; higher is better."""

    @property
    def name(self) -> str:
        """How the scorer is called in results."""

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """Scores float [B, N] of queries[rows]; no NaN; -inf for "cannot say"."""


@dataclass(frozen=True)
class Candidates:
    """Who competes with the target: `full`, or `n` sampled `uniform` or by `popularity`."""

    kind: str
    n: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "full" else f"{self.kind}:{self.n}"


def parse_candidates(text: str) -> Candidates:
    """Read `full`, `uniform:100` or `popularity:100`.

    Raises:
        InputError: anything else.
    """
    kind, _, count = text.partition(":")
    if text == "full":
        return Candidates("full")
    if kind in ("uniform", "popularity") and count.isascii() and count.isdigit() and int(count) > 0:
        return Candidates(kind, int(count))
    raise InputError(f"candidates '{text}': write full, uniform:N or popularity:N with N at least 1")


def blocks(num_queries: int, num_targets: int) -> Iterator[slice]:
    """Slices of queries whose score block stays small."""
    columns = max(num_targets, 1)
    least = int(np.clip(_MOST_CELLS // columns, 1, _LEAST_ROWS))
    step = int(np.clip(_BLOCK_CELLS // columns, least, _BLOCK_ROWS))
    for start in range(0, num_queries, step):
        yield slice(start, min(start + step, num_queries))


def rank_full(
    scorer: Scorer, queries: Queries, world: World, direction: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rank every target among all its candidates.

    Returns:
        ranks int64 [Q] (1 = best) and candidates int64 [Q] (how many competed).

    Raises:
        DualityError: the scorer returned NaN or a block of the wrong shape.
    """
    pools = pools_for(queries, world, direction)[:1]
    ranks, candidates = rank_pools([scorer], queries, world, direction, pools)
    return ranks[0, 0], candidates[0]


def rank_pools(
    scorers: Sequence[Scorer],
    queries: Queries,
    world: World,
    direction: str,
    pools: Sequence[Pool],
    *,
    seen: sparse.csr_matrix | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank every target among all candidates of each pool, by each scorer; every block is scored once.

    Args:
        seen: bool [sources, targets], pairs that do not compete; by default the visible ones.

    Returns:
        ranks int64 [scorers, pools, Q] (1 = best) and candidates int64 [pools, Q] (how many competed).

    Raises:
        DualityError: a scorer returned NaN or a block of the wrong shape.
    """
    seen = seen_csr(world, direction) if seen is None else seen
    sources, targets = queries.sources(direction), queries.targets(direction)
    ranks = np.empty((len(scorers), len(pools), len(queries)), dtype=np.int64)
    candidates = np.empty(ranks.shape[1:], dtype=np.int64)
    for scorer in scorers if len(queries) else ():
        # What a scorer makes once and keeps (states, tables) would be taken for the speed of ranking.
        _checked_scores(scorer, queries, slice(0, 1), direction, world)
    with progress(len(queries), f"ranking {direction}", unit="queries") as bar:
        for rows in blocks(len(queries), world.num_targets(direction)):
            excluded = _excluded(seen[sources[rows]], targets[rows])
            masks = allowed_rows(pools, rows)
            shape = (rows.stop - rows.start, world.num_targets(direction))
            candidates[:, rows] = [1 + _count(np.ones(shape, bool), excluded, mask) for mask in masks]
            for number, scorer in enumerate(scorers):
                scores = _checked_scores(scorer, queries, rows, direction, world)
                ahead = scores >= scores[np.arange(len(scores)), targets[rows]][:, None]
                ranks[number, :, rows] = [1 + _count(ahead, excluded, mask) for mask in masks]
            bar.advance(rows.stop - rows.start)
    return ranks, candidates


def count_candidates(
    queries: Queries, world: World, direction: str, pool: Pool, seen: sparse.csr_matrix | None = None
) -> np.ndarray:
    """How many candidates every query has in full, the target included: int64 [Q]."""
    seen = seen_csr(world, direction) if seen is None else seen
    sources, targets = queries.sources(direction), queries.targets(direction)
    counts = np.empty(len(queries), dtype=np.int64)
    for rows in blocks(len(queries), world.num_targets(direction)):
        excluded = _excluded(seen[sources[rows]], targets[rows])
        everyone = np.ones((rows.stop - rows.start, world.num_targets(direction)), bool)
        counts[rows] = 1 + _count(everyone, excluded, allowed_rows([pool], rows)[0])
    return counts


def _excluded(seen: sparse.csr_matrix, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every cell that does not compete, each once: what was seen, and the target."""
    row = np.repeat(np.arange(len(targets)), np.diff(seen.indptr))
    other = seen.indices != targets[row]
    return (
        np.concatenate((row[other], np.arange(len(targets)))),
        np.concatenate((seen.indices[other], targets)),
    )


def _count(cells: np.ndarray, excluded: tuple[np.ndarray, np.ndarray], mask: np.ndarray | None) -> np.ndarray:
    """True cells [B, N] of each row that a pool's mask lets through and that are not excluded, int64 [B].

    Subtracting the few excluded cells is cheaper than clearing them in a copy.
    """
    if mask is not None:
        cells = cells & mask
    # Summing bytes is twice as fast as count_nonzero along an axis.
    total = np.add.reduce(cells.view(np.int8), axis=1, dtype=np.int32).astype(np.int64)
    lost = cells[excluded]
    return total - np.bincount(excluded[0][lost], minlength=len(cells))


def _checked_scores(
    scorer: Scorer, queries: Queries, rows: slice, direction: str, world: World
) -> np.ndarray:
    scores = np.asarray(scorer.score(queries, rows, direction))
    expected = (rows.stop - rows.start, world.num_targets(direction))
    if scores.shape != expected:
        raise DualityError(f"scorer '{scorer.name}' returned shape {scores.shape} instead of {expected}")
    # The least of all is NaN when any is.
    if scores.size and np.isnan(scores.min()):
        raise DualityError(f"scorer '{scorer.name}' returned NaN: check its weights and inputs")
    return scores


def sample_negatives(
    queries: Queries, world: World, direction: str, candidates: Candidates, *, seed: int = 0
) -> np.ndarray:
    """Draw negatives once, so that every scorer meets the same ones.

    Without replacement from the unseen candidates of each query, never the target:
    `uniform`, or `popularity` with chances proportional to the number of training events
    (a row without any is then never drawn). Drawn as the n smallest of exponential times
    with rate equal to the weight, which is sampling without replacement in one pass.

    Returns:
        int32 [Q, n]; -1 fills the end of a row when fewer candidates can be drawn.
    """
    seen, (pool, *_) = seen_csr(world, direction), pools_for(queries, world, direction)
    sources, targets = queries.sources(direction), queries.targets(direction)
    rows_of_side = np.arange(world.num_targets(direction))
    weights = np.exp(_sampler(world, direction, candidates.kind).log_prob(rows_of_side))
    n, never = min(candidates.n, len(weights)), np.flatnonzero(weights == 0)
    negatives = np.full((len(queries), candidates.n), -1, dtype=np.int32)
    for rows in blocks(len(queries), len(weights)):
        block_seen, row = seen[sources[rows]], np.arange(rows.stop - rows.start)
        times = np.random.default_rng([seed, rows.start]).standard_exponential((len(row), len(weights)))
        times /= np.where(weights > 0, weights, 1.0)
        times[:, never] = np.inf
        times[np.repeat(row, np.diff(block_seen.indptr)), block_seen.indices] = np.inf
        if pool.allowed is not None:
            times[~np.broadcast_to(pool.allowed(rows), times.shape)] = np.inf
        times[row, targets[rows]] = np.inf
        negatives[rows, :n] = _first_arrivals(times, n)
    return negatives


def _first_arrivals(times: np.ndarray, n: int) -> np.ndarray:
    """Columns of the n smallest finite times of each row, -1 where there are fewer: int [B, n]."""
    drawn = np.argpartition(times, n - 1, axis=1)[:, :n]
    arrival = np.take_along_axis(times, drawn, axis=1)
    order = np.argsort(arrival, axis=1)
    finite = np.isfinite(np.take_along_axis(arrival, order, axis=1))
    return np.where(finite, np.take_along_axis(drawn, order, axis=1), -1)


def _sampler(world: World, direction: str, kind: str) -> Sampler:
    num_targets = world.num_targets(direction)
    if kind == "uniform":
        return Uniform(num_targets)
    return Popularity(np.bincount(world.event_ends(direction)[1][world.train], minlength=num_targets))


def rank_sampled(
    scorer: Scorer, queries: Queries, world: World, direction: str, negatives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rank every target among its sampled negatives.

    Args:
        negatives: int32 [Q, n] from `sample_negatives`.

    Returns:
        ranks int64 [Q] and candidates int64 [Q] (drawn negatives + 1).

    Raises:
        DualityError: the scorer returned NaN or a block of the wrong shape.
    """
    targets = queries.targets(direction)
    ranks = np.empty(len(queries), dtype=np.int64)
    for rows in blocks(len(queries), world.num_targets(direction)):
        scores = _checked_scores(scorer, queries, rows, direction, world)
        drawn = negatives[rows]
        threshold = scores[np.arange(len(drawn)), targets[rows]][:, None]
        ahead = (np.take_along_axis(scores, np.maximum(drawn, 0), axis=1) >= threshold) & (drawn >= 0)
        ranks[rows] = 1 + np.count_nonzero(ahead, axis=1)
    return ranks, 1 + np.count_nonzero(negatives >= 0, axis=1)
