"""Factorised baselines find planted groups, both ways; without the library one line says what to install."""

from __future__ import annotations

import numpy as np
import pytest

from duality.errors import InputError
from duality.evaluation import factors
from duality.evaluation.queries import DIRECTIONS, World, make_queries
from duality.evaluation.ranking import rank_full


def grouped() -> tuple[World, np.ndarray]:
    """Users of two groups, each with items of its own group; the last user and item are unknown."""
    random = np.random.default_rng(0)
    pairs = {(u, int(i)) for u in range(40) for i in random.choice(20, 10, False) * 2 + u % 2}
    user, item = np.array(sorted(pairs), np.int32).T
    hidden = random.permutation(len(user))[:60]
    visible = np.ones(len(user), dtype=bool)
    visible[hidden] = False
    return World(41, 41, visible, visible, user, item), hidden


@pytest.mark.parametrize("kind", ["als", "bpr"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_groups_are_found(kind: str, direction: str) -> None:
    pytest.importorskip("implicit", reason="needs the extra `baselines`")
    world, hidden = grouped()
    queries = make_queries(world, hidden, direction)
    scorer = factors.Factorised(world, kind)
    assert scorer.name == kind
    ranks, candidates = rank_full(scorer, queries, world, direction)
    assert ((candidates - ranks) / (candidates - 1)).mean() > 0.6
    scores = scorer.score(queries, slice(0, 3), direction)
    assert np.isneginf(scores[:, 40]).all()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"duality\[baselines\]"):
        factors.Factorised(grouped()[0], "als")
