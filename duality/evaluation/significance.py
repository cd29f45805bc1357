"""Could the difference be chance? Randomisation tests on paired differences, and Holm's correction.

If two scorers were equally good, swapping their results on a source's queries would change
nothing but the sign of that source's difference. So the signs are drawn at random, whole
clusters at a time, and the p value is the share of drawings with a mean difference at least
as far from zero as the one observed. The observed signs count as one of the drawings: p is
never 0.

That test speaks of the trained models at hand. Training again with another seed moves a
model too, on all its queries at once, and no number of queries shows by how much. A claim
about the *methods* needs several seeds of each: `method_test` draws signs per source and, at
the same time, which seed belongs to which method.

Cost:   about 1.5 ns per sign of a non-zero cluster, and column-blocks of H.
Shapes: Q queries, C clusters, H hypotheses (columns), N drawings, S seeds.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

from duality.evaluation.intervals import cluster_sums

MIN_SEEDS = 4  # the fewest per method with which relabelling can reach p < 0.05: 2 / C(8, 4) = .029
DRAWS = 9999
_ROWS, _BLOCK = 128, 8192  # drawings and clusters at a time: 8 MB of signs


def sign_flip_test(
    differences: np.ndarray, clusters: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """Two-sided p values of "the mean difference is zero", signs drawn per cluster.

    With few clusters (2^C at most `draws` + 1; clusters that are zero everywhere do not
    count) all sign patterns are gone through and p is exact; otherwise p is
    (1 + drawings as extreme) / (1 + draws).

    Args:
        differences: float [Q, H], first minus second on the same queries.
        clusters: int [Q], any labels.
        draws: random sign patterns.
        seed: same seed, same p.

    Returns:
        float64 [H] in (0, 1]. One cluster, or no difference anywhere, gives 1.

    Raises:
        ValueError: as `cluster_sums`.

    Source: Fisher, The Design of Experiments, 1935; Phipson & Smyth, Permutation p-values
    should never be zero, 2010.
    """
    sums, _ = cluster_sums(differences, clusters)
    null, exact = _flipped_totals(sums, draws, seed)
    return _p_values(null, sums.sum(axis=0), np.abs(sums).sum(axis=0), exact=exact)


def method_test(
    first: np.ndarray,
    second: np.ndarray,
    clusters: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> np.ndarray:
    """Two-sided p values of "the methods are equally good", over new sources and new seeds.

    Two sources of variation are drawn together: the sign of each source's difference
    (averaged over seeds), and which S_1 of the S_1 + S_2 seeds are called the first method.
    The sum of both effects is compared with the observed difference. p is never below that
    of relabelling the seeds alone, which has no more than C(S_1 + S_2, S_1) outcomes: five
    seeds against five cannot go under 2/252.

    Flipping either source of variation alone would be wrong: with many queries and few seeds
    a sign flip over queries finds a "difference" between two runs of one method.

    Args:
        first, second: float [S_1, Q, H] and [S_2, Q, H], per seed, on the same queries.
        clusters: int [Q].
        draws, seed: as `sign_flip_test`.

    Returns:
        float64 [H] in (0, 1].

    Raises:
        ValueError: fewer than two seeds of a method, or as `cluster_sums`.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("method_test needs at least two seeds of each method")
    means = np.concatenate((first.mean(axis=1), second.mean(axis=1)))
    observed = first.mean(axis=(0, 1)) - second.mean(axis=(0, 1))
    scale = np.abs(means).sum(axis=0)
    relabelled, exact = _relabelled_differences(means, len(first), draws, seed)
    by_seeds = _p_values(relabelled, observed, scale, exact=exact)
    sums, counts = cluster_sums(first.mean(axis=0) - second.mean(axis=0), clusters)
    flipped = _flipped_totals(sums, draws, seed)[0] / counts.sum()
    random = np.random.default_rng([seed, 2])
    both = flipped[random.integers(0, len(flipped), draws)]
    both = both + relabelled[random.integers(0, len(relabelled), draws)]
    return np.maximum(by_seeds, _p_values(both, observed, scale, exact=False))


def smallest_p(first_seeds: int, second_seeds: int) -> float:
    """The smallest p that `method_test` can give with so many seeds."""
    return (2 if first_seeds == second_seeds else 1) / comb(first_seeds + second_seeds, first_seeds)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p values that keep the chance of any false claim at the level, float64 like `p`.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    flat = np.asarray(p, dtype=np.float64).ravel()
    order = np.argsort(flat, kind="stable")
    stepped = np.maximum.accumulate(flat[order] * np.arange(len(flat), 0, -1))
    adjusted = np.empty_like(flat)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.reshape(np.shape(p))


def _p_values(null: np.ndarray, observed: np.ndarray, scale: np.ndarray, *, exact: bool) -> np.ndarray:
    """Share of null [N, H] as far from zero as observed [H]; the observed one joins random draws."""
    # Sums in another order differ in the last digits: what is equal must count as equal.
    extreme = (np.abs(null) >= np.abs(observed) - 1e-10 * scale).sum(axis=0)
    return extreme / len(null) if exact else (1.0 + extreme) / (1.0 + len(null))


def _flipped_totals(sums: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, bool]:
    """Totals of sums [C, H] under sign patterns, float64 [N, H], and whether N is all of them."""
    sums = sums[(sums != 0).any(axis=1)]
    if len(sums) < 63 and 2 ** len(sums) <= draws + 1:
        patterns = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        return (2.0 * patterns - 1.0) @ sums, True
    parts = [
        _random_totals(sums, min(_ROWS, draws - start), np.random.default_rng([seed, start]))
        for start in range(0, draws, _ROWS)
    ]
    return np.concatenate(parts), False


def _random_totals(sums: np.ndarray, rows: int, random: np.random.Generator) -> np.ndarray:
    """Totals under `rows` random sign patterns, float64 [rows, H]."""
    taken = np.zeros((rows, sums.shape[1]))
    for start in range(0, len(sums), _BLOCK):
        part = sums[start : start + _BLOCK]
        bits = random.integers(0, 256, size=(rows, -(-len(part) // 8)), dtype=np.uint8)
        taken += np.unpackbits(bits, axis=1, count=len(part)).astype(np.float64) @ part
    return 2.0 * taken - sums.sum(axis=0)


def _relabelled_differences(
    means: np.ndarray, first_seeds: int, draws: int, seed: int
) -> tuple[np.ndarray, bool]:
    """Difference of method means, float64 [N, H], under labels of means [S, H]; whether N is all."""
    total = len(means)
    exact = comb(total, first_seeds) <= draws + 1
    if exact:
        chosen = np.array(list(combinations(range(total), first_seeds)))
    else:
        keys = np.random.default_rng([seed, 1]).random((draws, total))
        chosen = np.argsort(keys, axis=1)[:, :first_seeds]
    first = means[chosen].sum(axis=1)
    rest = means.sum(axis=0) - first
    return first / first_seeds - rest / (total - first_seeds), exact
