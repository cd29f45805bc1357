"""Samplers against their declared distributions, the corrections made of them, and their names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from duality.errors import InputError
from duality.sampler_specs import make_sampler, parse_sampler
from duality.samplers import NOTHING, Context, Hard, InBatch, Mixture, Popularity, Sampler, Uniform

N, DRAWS = 60, 1_000_000
COUNTS = np.append(np.random.default_rng(3).integers(1, 300, N - 2), [0, 0])


class Table:
    """Exact search by inner product; ids are `label` followed by the row."""

    def __init__(self, vectors: np.ndarray, label: str = "item-") -> None:
        self.vectors, self.label = vectors, label

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = vectors @ self.vectors.T
        best = np.argsort(-scores, axis=1)[:, :k]
        ids = np.array([[f"{self.label}{row}" for row in line] for line in best], dtype=object)
        ids[0, -1] = None  # a side pads where it found fewer
        return ids, np.take_along_axis(scores, best, 1)


def rows_of(ids: np.ndarray) -> np.ndarray:
    return np.array([int(name.split("-")[1]) for name in ids], dtype=np.int64)


def hard_and_context() -> tuple[Hard, Context]:
    rng = np.random.default_rng(0)
    side = Table(rng.normal(size=(N, 8)).astype(np.float32))
    queries = rng.normal(size=(5, 8)).astype(np.float32)
    return Hard(N, side, 7, rows_of), Context(queries=queries)


def samplers() -> list[tuple[str, Sampler, Context]]:
    hard, context = hard_and_context()
    mixture = Mixture([Uniform(N), Popularity(COUNTS, 0.5), hard], [1.0, 2.0, 1.0])
    return [
        ("uniform", Uniform(N), NOTHING),
        ("popularity", Popularity(COUNTS, 1.0), NOTHING),
        ("popularity to the 3/4", Popularity(COUNTS, 0.75), NOTHING),
        ("popularity to the 0", Popularity(COUNTS, 0.0), NOTHING),
        ("hard", hard, context),
        ("mixture", mixture, context),
    ]


def fits(ids: np.ndarray, log_prob: np.ndarray) -> float:
    """p-value of the chi-square test of the drawn counts against the declared distribution."""
    drawn, declared = np.bincount(ids, minlength=N), np.exp(log_prob)
    assert drawn[declared == 0].sum() == 0
    possible = declared > 0
    return float(stats.chisquare(drawn[possible], declared[possible] * len(ids)).pvalue)


@pytest.mark.parametrize(("name", "sampler", "context"), samplers(), ids=lambda value: str(value)[:30])
def test_a_million_draws_follow_the_declared_distribution(
    name: str, sampler: Sampler, context: Context
) -> None:
    everything = sampler.log_prob(np.arange(N), context)
    assert np.exp(everything).sum() == pytest.approx(1.0, abs=1e-12)
    ids, log_prob = sampler.draw(DRAWS, np.random.default_rng(7), context)
    assert ids.shape == log_prob.shape == (DRAWS,)
    np.testing.assert_allclose(log_prob, everything[ids], rtol=1e-12)
    assert fits(ids, everything) > 1e-3


def test_the_chi_square_test_notices_a_wrong_distribution() -> None:
    ids, _ = Popularity(COUNTS, 1.0).draw(DRAWS, np.random.default_rng(7))
    assert fits(ids, Popularity(COUNTS, 0.98).log_prob(np.arange(N))) < 1e-3


def test_a_million_in_batch_draws_from_random_batches_follow_the_event_counts() -> None:
    events = np.repeat(np.arange(N), COUNTS)
    sampler, rng = InBatch(COUNTS), np.random.default_rng(5)
    ids = np.empty((2000, 500), dtype=np.int64)
    for row in ids:
        batch = events[rng.integers(len(events), size=800)]
        row[:] = sampler.draw(500, rng, Context(batch=batch))[0]
    assert fits(ids.ravel(), sampler.log_prob(np.arange(N))) > 1e-3
    assert np.exp(sampler.log_prob(np.arange(N))).sum() == pytest.approx(1.0)


def test_in_batch_draws_are_members_of_the_batch_each_once_until_used_up() -> None:
    batch = np.array([4, 9, 9, 30])
    sampler, rng = InBatch(COUNTS), np.random.default_rng(0)
    assert sorted(sampler.draw(4, rng, Context(batch=batch))[0]) == [4, 9, 9, 30]
    assert set(sampler.draw(50, rng, Context(batch=batch))[0]) == {4, 9, 30}
    with pytest.raises(ValueError, match="need a batch"):
        sampler.draw(4, rng)


def test_popularity_odds_are_counts_to_the_power() -> None:
    log_prob = Popularity(COUNTS, 0.75).log_prob(np.arange(N))
    expected = np.where(COUNTS > 0, COUNTS.astype(float), np.nan) ** 0.75
    np.testing.assert_allclose(np.exp(log_prob[:-2]), (expected / np.nansum(expected))[:-2])
    assert np.isneginf(log_prob[-2:]).all()
    assert np.isfinite(Popularity(np.array([1, 10**9]), 60.0).log_prob(np.array([1]))).all()


@pytest.mark.parametrize("counts", [[0, 0], [1, -1], [1, np.nan], []])
def test_counts_that_give_no_distribution_are_refused(counts: list[float]) -> None:
    with pytest.raises(ValueError, match="counts must be"):
        Popularity(np.array(counts))


@pytest.mark.parametrize(("name", "sampler", "context"), samplers(), ids=lambda value: str(value)[:30])
def test_the_same_generator_gives_the_same_ids(name: str, sampler: Sampler, context: Context) -> None:
    first, second, other = (sampler.draw(500, np.random.default_rng(seed), context)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.parametrize("name", ["uniform", "popularity", "popularity to the 3/4", "mixture"])
@pytest.mark.parametrize("n", [5, 40, 400])
def test_corrected_sums_are_unbiased(name: str, n: int) -> None:
    sampler, context = next((s, c) for label, s, c in samplers() if label == name)
    reachable = np.isfinite(sampler.log_prob(np.arange(N), context))
    values = np.exp(np.random.default_rng(1).normal(size=N))
    rng, sums = np.random.default_rng(2), []
    for _ in range(1500):
        ids, offset = sampler.candidates(n, rng, context)
        assert (np.diff(ids) > 0).all()
        assert len(ids) <= n
        sums.append((values[ids] * np.exp(offset)).sum())
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - values[reachable].sum()) < 4.5 * error + 1e-9


def test_correction_for_inclusion_is_logq_for_rare_rows_and_none_for_certain_ones() -> None:
    sampler = Popularity(np.append(np.full(10_000, 1e-4), 1.0))
    ids, offset = sampler.candidates(40, np.random.default_rng(0))
    log_prob = sampler.log_prob(ids)
    np.testing.assert_allclose(offset[:-1], -(np.log(40) + log_prob[:-1]), atol=0.01)
    assert offset[-1] == pytest.approx(0.0, abs=1e-6)


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_uniform_candidates_are_those_of_the_plain_generator(size: int, n: int, seed: int) -> None:
    ids, offset = Uniform(size).candidates(n, np.random.default_rng(seed))
    expected = np.unique(np.random.default_rng(seed).integers(size, size=n))
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_allclose(offset, np.log(size / len(expected)), rtol=1e-12)


def test_mixture_probability_does_not_depend_on_who_drew() -> None:
    mixture = Mixture([Uniform(N), Popularity(COUNTS)], [3, 1])
    expected = 0.75 / N + 0.25 * COUNTS / COUNTS.sum()
    np.testing.assert_allclose(np.exp(mixture.log_prob(np.arange(N))), expected)
    with pytest.raises(ValueError, match="one side"):
        Mixture([Uniform(3), Uniform(4)], [1, 1])


def test_hard_reaches_only_what_the_index_found() -> None:
    hard, context = hard_and_context()
    ids = np.unique(hard.draw(5000, np.random.default_rng(0), context)[0])
    assert context.queries is not None
    found = hard.side.search(context.queries, 7)[0].ravel()
    assert set(ids) == set(rows_of(found[found != np.array(None)]))
    missing = np.setdiff1d(np.arange(N), ids)
    assert np.isneginf(hard.log_prob(missing, context)).all()
    with pytest.raises(ValueError, match="query vectors"):
        hard.draw(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("uniform", Uniform),
        ("popularity:0.75", Popularity),
        ("batch", InBatch),
        ("hard:5", Hard),
        ("mixture:0.6*uniform+0.4*popularity:1", Mixture),
    ],
)
def test_names_make_samplers(text: str, kind: type[Sampler]) -> None:
    sampler = make_sampler(text, COUNTS, Table(np.eye(N, dtype=np.float32)))
    assert type(sampler) is kind
    assert sampler.size == N


def test_a_named_mixture_has_its_parts_and_weights() -> None:
    mixture = make_sampler("mixture:3*uniform+1*popularity:1", COUNTS)
    assert isinstance(mixture, Mixture)
    np.testing.assert_allclose(mixture.weights, [0.75, 0.25])
    assert [type(part) for part in mixture.parts] == [Uniform, Popularity]


@pytest.mark.parametrize(
    "text",
    [
        "", "unifrom", "uniform:3", "popularity", "popularity:x", "popularity:-1", "popularity:nan", "hard",
        "hard:0", "hard:1.5", "mixture", "mixture:", "mixture:uniform", "mixture:0*uniform",
        "mixture:1*mixture:1*uniform", "mixture:1*uniform+", "mixture:-1*uniform", "batch:2",
    ],
)  # fmt: skip
def test_a_bad_name_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match="sampler") as error:
        parse_sampler(text)
    assert "\n" not in str(error.value)


def test_hard_without_an_index_is_refused() -> None:
    with pytest.raises(InputError, match="needs an index"):
        make_sampler("mixture:0.5*uniform+0.5*hard:5", COUNTS)
