"""Who is shown how often: coverage, concentration, popularity lift, and the balance of give and take.

Reads:  ranked lists as one array of rows, and how often each row was interacted with. Whoever
        made the lists does not matter; users listed for items are measured by the same
        functions (then "item" below is a user who is targeted).
Trades: every slot counts alike; a position model would weigh the first slot more.

The paper's question, "how many items you interacted, how many times your items get
recommended": give = a provider's interactions, take = its slots, each as a share of all;
`ratio` = share of slots / share of interactions. 1 is proportional, below 1 under-exposed.

Sources: Huang, "Revisiting Self-Attentive Sequential Recommendation", section 4.5; popularity
lift: Abdollahpouri et al., "The Connection Between Popularity Bias, Calibration, and Fairness
in Recommendation" (RecSys 2020), section 3.

Shapes: Q lists, k slots of a list, I items, G providers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


def gini(counts: np.ndarray) -> float:
    """Gini coefficient: mean absolute difference of two counts, over twice their mean.

    Args:
        counts: [N] >= 0, N >= 1, zeros included.

    Returns:
        0 when all are equal, (N - 1) / N when one holds everything; 0 when all are zero.

    Raises:
        ValueError: empty, or a negative count.
    """
    values = np.sort(np.asarray(counts, dtype=np.float64))
    if not len(values) or values[0] < 0:
        raise ValueError("gini needs at least one count, none negative")
    total, n = values.sum(), len(values)
    if total == 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ values / (n * total))


def slots(lists: np.ndarray, num_items: int) -> np.ndarray:
    """How often each item is listed: int64 [I] from int [Q, k] with -1 padding.

    Raises:
        ValueError: a row outside -1 .. I - 1.
    """
    flat = np.asarray(lists).ravel()
    if len(flat) and (flat.min() < -1 or flat.max() >= num_items):
        raise ValueError(f"lists hold rows outside -1..{num_items - 1}")
    return np.bincount(flat[flat >= 0], minlength=num_items)


def by_provider(per_item: np.ndarray, provider: np.ndarray, num_providers: int) -> np.ndarray:
    """Sum over each provider's items: float64 [G]; items with provider -1 count for nobody."""
    known = provider >= 0
    return np.bincount(provider[known], weights=per_item[known], minlength=num_providers)


def concentration(counts: np.ndarray) -> dict[str, float]:
    """Coverage and concentration of slots, [N] >= 0: `coverage`, `gini`, `top_share` of the top 1%."""
    top = max(int(np.ceil(0.01 * len(counts))), 1)
    most = np.sort(counts)[::-1][:top].sum()
    return {
        "coverage": float((counts > 0).mean()),
        "gini": gini(counts),
        "top_1%_share": float(most / max(counts.sum(), 1)),
        "largest_share": float(counts.max(initial=0) / max(counts.sum(), 1)),
    }


def popularity_lift(lists: np.ndarray, profiles: Any, popularity: np.ndarray) -> float:
    """How much more popular the listed items are than those of the users' own histories.

    Args:
        lists: int [Q, k], -1 pads.
        profiles: sparse bool [Q, I], what each query has interacted with.
        popularity: float [I], interactions per item.

    Returns:
        GAP(lists) / GAP(profiles) - 1, each the mean over queries of the mean popularity of its
        items; queries without list or profile are left out of both. NaN when none is left.
    """
    listed, kept = lists >= 0, np.diff(profiles.indptr)
    used = (kept > 0) & listed.any(axis=1)
    if not used.any():
        return float("nan")
    shown = np.where(listed, popularity[np.maximum(lists, 0)], 0.0).sum(1)[used] / listed.sum(1)[used]
    own = (profiles.astype(np.float64) @ popularity)[used] / kept[used]
    return float(shown.mean() / own.mean() - 1.0)


def balance_of(taken: np.ndarray, given: np.ndarray) -> dict[str, Any]:
    """Interacted against recommended, per provider (or per user who is targeted).

    Args:
        taken: [G] slots.
        given: [G] interactions.

    Returns:
        `providers` (with an interaction or a slot), `ratio` {quantile: value} of share of slots /
        share of interactions over those with interactions, `ratio_half_to_double` (share of
        them between 0.5 and 2), `never_shown` (share of them without a slot), `shown_without_interaction`,
        `pearson_log` (of log(1 + count)), `spearman`, `gini_given`, `gini_taken`. Correlations are None
        when a side is constant.

    Raises:
        ValueError: shapes differ, or nothing was given or taken.
    """
    taken, given = np.asarray(taken, dtype=np.float64), np.asarray(given, dtype=np.float64)
    if taken.shape != given.shape or not taken.sum() or not given.sum():
        raise ValueError("balance needs slots and interactions of the same providers")
    present = (taken > 0) | (given > 0)
    taken, given = taken[present], given[present]
    gave = given > 0
    ratio = (taken[gave] / taken.sum()) / (given[gave] / given.sum())
    return {
        "providers": int(present.sum()),
        "ratio": {f"{q:g}": float(np.quantile(ratio, q)) for q in QUANTILES},
        "ratio_half_to_double": float(((ratio >= 0.5) & (ratio <= 2)).mean()),
        "never_shown": float((ratio == 0).mean()),
        "shown_without_interaction": int((~gave).sum()),
        "pearson_log": _correlation(np.log1p(taken), np.log1p(given)),
        "spearman": _correlation(rankdata(taken), rankdata(given)),
        "gini_given": gini(given),
        "gini_taken": gini(taken),
    }


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 2 or first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def list_ndcg(lists: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """NDCG of one target per list, float64 [Q]: 1 / log2(place + 1), 0 where it is not listed."""
    found = lists == targets[:, None]
    return np.where(found.any(axis=1), 1.0 / np.log2(found.argmax(axis=1) + 2.0), 0.0)
