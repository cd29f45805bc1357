"""Draws without replacement from what a query has not seen: who may be drawn, and with what chances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from duality.evaluation import drawing
from duality.evaluation.drawing import draw_unseen
from duality.samplers import Popularity, Sampler, Uniform


@given(st.integers(0, 500), st.integers(1, 40), st.booleans())
@settings(max_examples=80, deadline=None)
def test_draws_are_distinct_allowed_and_as_many_as_there_are(seed: int, n: int, by_count: bool) -> None:
    rng = np.random.default_rng(seed)
    size, queries = int(rng.integers(1, 30)), int(rng.integers(1, 9))
    seen = sparse.csr_matrix(rng.random((queries, size)) < rng.random())
    counts = rng.integers(0, 50, size)
    counts[0] = 1
    sampler: Sampler = Popularity(counts) if by_count else Uniform(size)
    drawn = draw_unseen(sampler, seen.indptr, seen.indices, n, rng)
    assert drawn.shape == (queries, n)
    for query, row in enumerate(drawn):
        allowed = set(range(size)) - set(seen[query].indices)
        if by_count:
            allowed &= set(np.flatnonzero(counts))
        real = row[row >= 0].tolist()
        assert (row[len(real) :] == -1).all()
        assert len(set(real)) == len(real) == min(n, len(allowed))
        assert set(real) <= allowed


@pytest.mark.parametrize("rounds", [0, 16], ids=["race", "rejection"])
def test_ordered_draws_have_the_chances_of_successive_sampling(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "RACE_AFTER", rounds)
    odds, queries = np.array([5.0, 1.0, 2.0, 4.0]), 40_000
    seen = sparse.csr_matrix(np.tile([False, False, False, True], (queries, 1)))
    drawn = draw_unseen(Popularity(odds), seen.indptr, seen.indices, 2, np.random.default_rng(0))
    pairs = list(itertools.permutations(range(3), 2))
    expected = [odds[a] / 8 * odds[b] / (8 - odds[a]) for a, b in pairs]
    counts = [int(((drawn[:, 0] == a) & (drawn[:, 1] == b)).sum()) for a, b in pairs]
    assert sum(counts) == queries
    assert stats.chisquare(counts, np.array(expected) * queries).pvalue > 1e-3
