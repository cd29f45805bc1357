"""Exposure measures against their definitions; the workflow end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats

from duality.errors import InputError
from duality.evaluation.exposure import (
    balance_of,
    by_provider,
    concentration,
    gini,
    list_ndcg,
    popularity_lift,
    slots,
)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_gini_is_the_mean_absolute_difference(counts: list[int]) -> None:
    values = np.array(counts, dtype=float)
    expected = 0.0
    if values.sum():
        expected = np.abs(values[:, None] - values[None, :]).mean() / (2 * values.mean())
    assert gini(values) == pytest.approx(expected, abs=1e-12)


def test_gini_of_the_extremes() -> None:
    assert gini(np.full(7, 3)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)
    with pytest.raises(ValueError, match="none negative"):
        gini(np.array([-1, 2]))


def test_slots_and_providers_leave_padding_and_strangers_out() -> None:
    taken = slots(np.array([[0, 2], [2, -1]]), 4)
    assert taken.tolist() == [1, 0, 2, 0]
    assert by_provider(taken, np.array([0, 0, 1, -1]), 2).tolist() == [1, 2]
    assert concentration(taken)["coverage"] == 0.5
    assert concentration(taken)["largest_share"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="outside"):
        slots(np.array([[4]]), 4)


def test_popularity_lift_by_hand() -> None:
    profiles = sparse.csr_matrix(np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], dtype=bool))
    lists = np.array([[1, 2], [0, -1], [0, 1]])  # the third has no profile and is left out
    popularity = np.array([10.0, 4.0, 2.0])
    own, shown = (10 + 3) / 2, (3 + 10) / 2
    assert popularity_lift(lists, profiles, popularity) == pytest.approx(shown / own - 1)
    assert popularity_lift(lists[:1], profiles[:1], popularity) == pytest.approx(3 / 10 - 1)


def test_proportional_slots_have_a_ratio_of_one() -> None:
    given_ = np.array([1, 4, 9, 2])
    report = balance_of(3 * given_, given_)
    assert set(np.round(list(report["ratio"].values()), 9)) == {1.0}
    assert report["spearman"] == pytest.approx(1)
    assert report["ratio_half_to_double"] == 1
    assert report["never_shown"] == 0


def test_balance_against_scipy() -> None:
    rng = np.random.default_rng(0)
    taken, given_ = rng.poisson(2, 200), rng.poisson(3, 200)
    report, present = balance_of(taken, given_), (taken + given_) > 0
    assert report["spearman"] == pytest.approx(stats.spearmanr(taken[present], given_[present])[0])
    expected = stats.pearsonr(np.log1p(taken[present]), np.log1p(given_[present]))[0]
    assert report["pearson_log"] == pytest.approx(expected)
    assert report["shown_without_interaction"] == ((given_ == 0) & (taken > 0)).sum()
    assert report["never_shown"] == pytest.approx(((given_ > 0) & (taken == 0)).sum() / (given_ > 0).sum())


def test_ndcg_of_lists() -> None:
    lists = np.array([[3, 1, 2], [3, 1, 2], [0, -1, -1]])
    np.testing.assert_allclose(list_ndcg(lists, np.array([3, 2, 5])), [1, 0.5, 0])


def test_floors_hold_on_a_model_and_the_ndcg_is_that_of_the_evaluation(world: Path) -> None:
    from duality.workflows.exposure import Rules, exposure

    model = world / "models/default"
    report = exposure(model, k=5, provider="year", rules=Rules((0.0, 0.6), merit="uniform"))
    loose, strict = report["reranked"]
    assert loose["accuracy"]["ndcg"] == pytest.approx(report["lists"]["accuracy"]["ndcg"])
    assert strict["floors_missed"] == 0
    assert strict["unfilled"] == 0
    assert strict["gap"] < 1e-6
    assert strict["value"] <= loose["value"]
    assert strict["providers"]["gini_taken"] < report["lists"]["providers"]["gini_taken"]


def test_a_ceiling_holds_in_the_mirror_and_on_an_index(world: Path) -> None:
    from duality.workflows.exposure import Rules, exposure

    report = exposure(
        None, index=world / "indexes/default", direction="item-to-user", k=4, rules=Rules((), ceiling=0.05)
    )
    assert "accuracy" not in report["lists"]
    (part,) = report["reranked"]
    assert part["items"]["largest_share"] <= 0.05
    assert part["unfilled"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"provider": "yaer"}, "did you mean year"),
        ({"provider": "genres"}, "holds lists"),
        ({"k": 1000}, "there are only"),
    ],
)
def test_bad_input_is_one_clear_line(world: Path, change: dict, message: str) -> None:
    from duality.workflows.exposure import exposure

    with pytest.raises(InputError, match=message):
        exposure(world / "models/default", **change)


def test_rules_out_of_range_are_refused() -> None:
    from duality.workflows.exposure import Rules, parse_floors

    assert parse_floors("0,0.5") == (0.0, 0.5)
    for bad in (lambda: parse_floors("x"), lambda: Rules((1.5,)), lambda: Rules((), 0.0)):
        with pytest.raises(InputError):
            bad()
