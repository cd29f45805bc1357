"""Metrics against their definitions, spelled out on explicit rankings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duality import metrics
from duality.errors import InputError

CASES = st.lists(
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))), min_size=1, max_size=30
)


def by_hand(name: str, rank: int, candidates: int) -> float:
    """Build the ranked list of relevances and apply the textbook formula."""
    relevance = [1 if place == rank else 0 for place in range(1, candidates + 1)]
    if name == "auc":
        others = candidates - 1
        return sum(1 for place in range(1, candidates + 1) if place > rank) / others if others else 1.0
    kind, cut = name.split("@")
    if kind == "lift":
        top = math.ceil(candidates * float(cut.rstrip("%")) / 100 - 1e-9)
        return sum(relevance[:top]) / (top / candidates)
    head = relevance[: int(cut)]
    if kind == "ndcg":
        return sum(gain / math.log2(place + 1) for place, gain in enumerate(head, start=1))
    if kind == "mrr":
        return max([gain / place for place, gain in enumerate(head, start=1)], default=0.0)
    return float(sum(head))


@given(CASES, st.sampled_from(["ndcg@10", "recall@3", "mrr@5", "auc", "lift@10%", "lift@1%", "recall@100"]))
def test_values_equal_the_definition(cases: list[tuple[int, int]], name: str) -> None:
    ranks, candidates = np.array(cases).T
    expected = [by_hand(name, rank, count) for rank, count in cases]
    np.testing.assert_allclose(metrics.per_query(name, ranks, candidates), expected, atol=1e-12)


@pytest.mark.parametrize("candidates", [1, 7, 100, 1000])
@pytest.mark.parametrize("percent", [1, 10, 50, 100])
def test_random_ranking_has_lift_one(candidates: int, percent: int) -> None:
    every_rank = np.arange(1, candidates + 1)
    values = metrics.per_query(f"lift@{percent}%", every_rank, np.full(candidates, candidates))
    assert values.mean() == pytest.approx(1.0)


def test_parse_keeps_kind_and_cutoff() -> None:
    assert metrics.parse_metric("recall@100") == metrics.Metric("recall@100", "recall", 100)
    assert metrics.parse_metric("lift@0.5%") == metrics.Metric("lift@0.5%", "lift", 0.5)
    assert metrics.parse_metric("auc").cutoff is None


@pytest.mark.parametrize(
    "name", ["ndgc@10", "ndcg@0", "ndcg", "recall@-1", "lift@0%", "lift@101%", "auc@10", ""]
)
def test_unknown_metric_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="unknown metric"):
        metrics.parse_metric(name)


def test_near_name_is_suggested() -> None:
    with pytest.raises(InputError, match="did you mean ndcg@10"):
        metrics.parse_metric("ndgc@10")


@pytest.mark.parametrize(("ranks", "candidates"), [([0], [5]), ([6], [5]), ([1, 2], [5])])
def test_impossible_ranks_are_refused(ranks: list[int], candidates: list[int]) -> None:
    with pytest.raises(ValueError, match="between 1 and candidates"):
        metrics.per_query("auc", np.array(ranks), np.array(candidates))
