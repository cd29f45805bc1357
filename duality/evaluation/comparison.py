"""Which of several models is better: paired intervals, randomisation tests, one verdict per pair.

A model comes as the per-query values of one or more training runs (seeds). Queries are
clustered by the source that asks. Where a model has few seeds (under MIN_SEEDS), or the other
one has, its seeds are averaged and everything said is about *these trained models*: another
training run may turn it round. With enough seeds on both sides it is about the *methods*:
sources and seeds are resampled together (two-way cluster bootstrap) and tested together
(`method_test`).

The seed part of the bootstrap is widened by t(S-1)/1.96 x sqrt(S/(S-1)): a resample of four
numbers is too narrow, as for any small sample. Interactions of sources and seeds are counted
more than once, which errs to the wide side (Owen, The pigeonhole bootstrap, 2007; Hesterberg,
What teachers should know about the bootstrap, 2015, for the widening).

A difference is called shown only if the 95% interval excludes zero and Holm's p, over all
comparisons that are judged together, is at most .05.

Shapes: S seeds, Q queries, M metrics, R resamples, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import norm, t

from duality.evaluation.intervals import Intervals, percentile_interval, resampled_means
from duality.evaluation.significance import (
    DRAWS,
    MIN_SEEDS,
    holm,
    method_test,
    sign_flip_test,
    smallest_p,
)

LEVEL = 0.95
METHODS, TRAINED = "methods", "trained models"
FIRST, SECOND, NEITHER = "first is better", "second is better", "no difference shown"


def compare(
    values: Mapping[str, np.ndarray],
    clusters: np.ndarray,
    metrics: Sequence[str],
    *,
    references: Sequence[str] = (),
    resamples: int = 1000,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare every model with every other, on all metrics.

    Args:
        values: float [S, Q, M] of each model; Q and M agree, and query q is the same everywhere.
        clusters: int [Q], the source of each query.
        metrics: names of the M columns; higher is better in all of them.
        references: models (baselines) that are not compared among themselves.
        resamples: bootstrap samples, shared by all models.
        draws: drawings of each randomisation test.
        seed: same seed, same answer.

    Returns:
        `models` {name: {seeds, metrics {metric: {value, low, high}}}} and `comparisons`, a list
        of {first, second, metric, difference, low, high, p, p_holm, verdict, about}, where
        `about` is "methods" or "trained models"; with "methods" also `smallest_p`, the least
        p that so many seeds can give. `low` and `high` are None when all queries share one
        cluster.

    Raises:
        ValueError: shapes differ, no query, or a value that is not finite.
    """
    tables = {name: np.asarray(table, dtype=np.float64) for name, table in values.items()}
    _check_shapes(tables, len(clusters), len(metrics))
    samples = _resample(tables, clusters, resamples, seed)
    models = {
        name: {
            "seeds": len(tables[name]),
            "metrics": _own_interval(tables[name], samples[name], seed, number).table(metrics),
        }
        for number, name in enumerate(tables)
    }
    pairs = [(a, b) for a, b in combinations(tables, 2) if not (a in references and b in references)]
    return {
        "models": models,
        "comparisons": _comparisons(pairs, tables, samples, clusters, metrics, draws, seed),
    }


def verdict(low: float, high: float, p_holm: float) -> str:
    """What a difference (first minus second) shows; NaN bounds show nothing."""
    if p_holm > 1.0 - LEVEL + 1e-12:
        return NEITHER
    return FIRST if low > 0 else SECOND if high < 0 else NEITHER


def _check_shapes(tables: Mapping[str, np.ndarray], queries: int, metrics: int) -> None:
    for name, table in tables.items():
        if table.ndim != 3 or len(table) == 0 or table.shape[1:] != (queries, metrics):
            raise ValueError(f"values of '{name}' must be [seeds, {queries}, {metrics}], not {table.shape}")


def _resample(
    tables: Mapping[str, np.ndarray], clusters: np.ndarray, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Means of each model's seeds over the same drawn sources: float64 [R, S, M]."""
    columns = np.concatenate([np.concatenate(list(table), axis=1) for table in tables.values()], axis=1)
    means = resampled_means(columns, clusters, resamples=resamples, seed=seed)
    ends = np.cumsum([len(table) * table.shape[2] for table in tables.values()])[:-1]
    return {
        name: part.reshape(resamples, len(table), -1)
        for (name, table), part in zip(tables.items(), np.split(means, ends, axis=1))
    }


def two_way(samples: np.ndarray, seed: int, number: int) -> np.ndarray:
    """Means over drawn sources and drawn seeds.

    Args:
        samples: float64 [R, S, M], means over drawn sources of each seed; S >= 2.
        seed, number: of the drawing; models with different numbers draw independently.

    Returns:
        float64 [R, M], the deviation that comes from the seeds widened (see the module).
    """
    resamples, seeds, _ = samples.shape
    random = np.random.default_rng([seed, number, 3])
    times = random.multinomial(seeds, np.full(seeds, 1.0 / seeds), size=resamples)
    tail = 1.0 - (1.0 - LEVEL) / 2.0
    widening = t.ppf(tail, seeds - 1) / norm.ppf(tail) * math.sqrt(seeds / (seeds - 1))
    moved = np.einsum("rs,rsm->rm", (times - 1.0) / seeds, samples)
    return samples.mean(axis=1) + widening * moved


def _own_interval(table: np.ndarray, samples: np.ndarray, seed: int, number: int) -> Intervals:
    means = two_way(samples, seed, number) if len(table) >= MIN_SEEDS else samples.mean(axis=1)
    return percentile_interval(table.mean(axis=(0, 1)), means, level=LEVEL)


def _comparisons(
    pairs: Sequence[tuple[str, str]],
    tables: Mapping[str, np.ndarray],
    samples: Mapping[str, np.ndarray],
    clusters: np.ndarray,
    metrics: Sequence[str],
    draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    number = {name: place for place, name in enumerate(tables)}
    found = []
    for a, b in pairs:
        methods = min(len(tables[a]), len(tables[b])) >= MIN_SEEDS
        difference = tables[a].mean(axis=(0, 1)) - tables[b].mean(axis=(0, 1))
        if methods:
            means = two_way(samples[a], seed, number[a]) - two_way(samples[b], seed, number[b])
            p = method_test(tables[a], tables[b], clusters, draws=draws, seed=seed)
        else:
            means = samples[a].mean(axis=1) - samples[b].mean(axis=1)
            paired = tables[a].mean(axis=0) - tables[b].mean(axis=0)
            p = sign_flip_test(paired, clusters, draws=draws, seed=seed)
        interval = percentile_interval(difference, means, level=LEVEL)
        about = _about(len(tables[a]), len(tables[b])) if methods else {"about": TRAINED}
        rows = interval.table(metrics, "difference").items()
        found += [
            {"first": a, "second": b, "metric": name, **row, "p": float(p[place]), **about}
            for place, (name, row) in enumerate(rows)
        ]
    return found


def _about(first_seeds: int, second_seeds: int) -> dict[str, Any]:
    return {"about": METHODS, "smallest_p": smallest_p(first_seeds, second_seeds)}


def judge(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Comparisons with `p_holm` and `verdict` added, corrected over all that are given.

    Give it everything that is looked at together: tables judged apart are corrected apart.
    """
    adjusted = holm(np.array([row["p"] for row in found]))
    judged = []
    for row, p_holm in zip(found, adjusted):
        low, high = (math.nan if row[end] is None else row[end] for end in ("low", "high"))
        judged.append({**row, "p_holm": float(p_holm), "verdict": verdict(low, high, float(p_holm))})
    return judged
