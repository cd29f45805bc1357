"""Verdicts over models and seeds, on populations whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from duality.evaluation.comparison import compare, judge, two_way, verdict
from duality.evaluation.intervals import percentile_interval, resampled_means


def one(random: np.random.Generator, shift: float, *, seeds: int = 1) -> np.ndarray:
    """[seeds, 400, 2]; the second metric does not depend on `shift`."""
    values = random.normal(size=(seeds, 400, 2))
    values[..., 0] += shift
    return values


def test_the_truth_is_found_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    tables = {"good": one(random, 0.6), "plain": one(random, 0.0), "alike": one(random, 0.0)}
    found = compare(tables, np.arange(400), ["a", "b"])
    rows = {(row["first"], row["second"], row["metric"]): row for row in judge(found["comparisons"])}
    assert len(rows) == 6
    assert rows["good", "plain", "a"]["verdict"] == "first is better"
    assert rows["good", "alike", "a"]["verdict"] == "first is better"
    for key in [("plain", "alike", "a"), ("good", "plain", "b"), ("plain", "alike", "b")]:
        assert rows[key]["verdict"] == "no difference shown"
    assert all(row["p_holm"] >= row["p"] and row["about"] == "trained models" for row in rows.values())
    turned = compare({"plain": tables["plain"], "good": tables["good"]}, np.arange(400), ["a", "b"])
    assert judge(turned["comparisons"])[0]["verdict"] == "second is better"


def test_numbers_are_means_and_their_differences() -> None:
    random = np.random.default_rng(1)
    tables = {"x": one(random, 0.2, seeds=3), "y": one(random, 0.0)}
    found = compare(tables, np.arange(400) // 4, ["a", "b"], resamples=200)
    assert found["models"]["x"]["seeds"] == 3
    assert found["models"]["x"]["metrics"]["b"]["value"] == pytest.approx(tables["x"][..., 1].mean())
    wanted = tables["x"][..., 0].mean() - tables["y"][..., 0].mean()
    assert found["comparisons"][0]["difference"] == pytest.approx(wanted)


def test_seeds_are_averaged_when_few_and_resampled_when_enough() -> None:
    random = np.random.default_rng(2)
    runs = random.normal(scale=0.3, size=(2, 5, 1, 1))
    values = runs + 0.1 * random.normal(size=(2, 5, 200, 1))
    clusters = np.arange(200)
    few = compare({"x": values[0, :3], "y": values[1, :3]}, clusters, ["a"])["comparisons"][0]
    many = compare({"x": values[0], "y": values[1]}, clusters, ["a"])["comparisons"][0]
    assert (few["about"], many["about"]) == ("trained models", "methods")
    assert many["smallest_p"] == pytest.approx(2 / 252)
    assert many["high"] - many["low"] > 5 * (few["high"] - few["low"])


def test_two_way_intervals_cover_the_truth_where_one_way_does_not() -> None:
    random = np.random.default_rng(3)
    source, run = random.normal(0, 1.0, (1, 60, 300)), random.normal(0, 0.2, (5, 1, 300))
    table = source + run + 0.3 * random.normal(size=(5, 60, 300))
    columns = np.concatenate(list(table), axis=1)
    samples = resampled_means(columns, np.arange(60), resamples=500).reshape(500, 5, 300)
    truth = np.zeros(300)
    both = percentile_interval(truth, two_way(samples, 0, 0))
    alone = percentile_interval(truth, samples[:, 0])
    covered = np.mean((both.low <= 0) & (both.high >= 0))
    assert 0.91 <= covered <= 0.995
    assert np.mean((alone.low <= 0) & (alone.high >= 0)) < 0.85


def test_references_are_not_compared_among_themselves() -> None:
    random = np.random.default_rng(4)
    tables = {name: one(random, 0.0) for name in ("pop", "knn", "x")}
    found = compare(tables, np.arange(400), ["a", "b"], references=["pop", "knn"], resamples=50, draws=99)
    pairs = {(row["first"], row["second"]) for row in found["comparisons"]}
    assert pairs == {("pop", "x"), ("knn", "x")}


def test_interval_and_p_must_both_agree() -> None:
    assert verdict(0.1, 0.2, 0.01) == "first is better"
    assert verdict(-0.2, -0.1, 0.05) == "second is better"
    assert verdict(0.1, 0.2, 0.06) == "no difference shown"
    assert verdict(-0.1, 0.2, 0.01) == "no difference shown"
    assert verdict(np.nan, np.nan, 0.01) == "no difference shown"


def test_one_cluster_shows_nothing() -> None:
    tables = {"x": np.ones((1, 9, 1)), "y": np.zeros((1, 9, 1))}
    row = judge(compare(tables, np.zeros(9), ["a"])["comparisons"])[0]
    assert (row["low"], row["p"], row["verdict"]) == (None, 1.0, "no difference shown")


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="'y' must be"):
        compare({"x": np.zeros((1, 4, 1)), "y": np.zeros((1, 5, 1))}, np.arange(4), ["a"])
