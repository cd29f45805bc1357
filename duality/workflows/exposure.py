"""`duality exposure`: who is shown how often, and what a floor or a ceiling would cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duality.errors import InputError
from duality.evaluation.exposure import (
    balance_of,
    by_provider,
    concentration,
    list_ndcg,
    popularity_lift,
    slots,
)
from duality.evaluation.intervals import cluster_bootstrap, paired_difference
from duality.evaluation.queries import USER_TO_ITEM, check_direction
from duality.retrieval.balancing import balance
from duality.retrieval.balancing_problem import Problem
from duality.retrieval.pairs import as_lists, best_lists, candidate_pairs
from duality.workflows.exposure_world import Market, market_of_index, market_of_model, providers

POOL_FACTOR = 3  # candidates per slot
MERITS = ("interactions", "uniform")


@dataclass(frozen=True)
class Rules:
    """What re-ranked lists must hold.

    Args:
        floors: shares from 0 to 1; each gives one re-ranking, in which every provider holds at
            least that share of the slots its merit entitles it to.
        ceiling: largest share of all slots of any item, above 0 to 1; None: no ceiling.
        merit: "interactions" entitles in proportion to interactions, "uniform" everyone alike.

    Raises:
        InputError: a value out of range.
    """

    floors: tuple[float, ...] = ()
    ceiling: float | None = None
    merit: str = "interactions"

    def __post_init__(self) -> None:
        if any(not 0 <= floor <= 1 for floor in self.floors):
            raise InputError("--floor: give shares from 0 to 1, e.g. 0.5 or 0,0.5,1")
        if self.ceiling is not None and not 0 < self.ceiling <= 1:
            raise InputError(f"--ceiling {self.ceiling}: give a share above 0, at most 1")
        if self.merit not in MERITS:
            raise InputError(f"no merit '{self.merit}': choose {' or '.join(MERITS)}")


def exposure(
    model: Path | None,
    *,
    index: Path | None = None,
    data: Path | None = None,
    direction: str = USER_TO_ITEM,
    k: int = 10,
    provider: str | None = None,
    rules: Rules | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure everybody's lists; with rules also what re-ranked lists are like.

    Args:
        model: model folder, asked at its test split, so that accuracy is measured too.
        index: index folder instead of a model; all events are visible, so no accuracy.
        data: dataset folder; None takes the recorded one.
        direction: user-to-item lists items for users; item-to-user lists users for items, and
            "items" in the answer are then the users who are targeted.
        k: slots of a list.
        provider: attribute column of the listed side; None: each row is its own provider.
        rules: floors and ceiling.

    Returns:
        `protocol`, `lists` (measures of the plain lists) and `reranked`, one entry per floor.

    Raises:
        InputError: neither model nor index, k larger than the side, no such column.
    """
    check_direction(direction)
    rules = rules or Rules()
    if index is not None:
        market = market_of_index(index, data, direction)
    elif model is not None:
        market = market_of_model(model, data, direction)
    else:
        raise InputError("name a model with --model or an index with --index")
    if k > len(market.answering):
        raise InputError(f"-k {k}: there are only {len(market.answering)} to list")
    owner, count = providers(market.answers, provider)
    plain = best_lists(market.asking, market.answering, market.seen, k)[0]
    accuracy = _accuracy(plain, market)
    floors = rules.floors or ((0.0,) if rules.ceiling is not None else ())
    return {
        "protocol": _protocol(market, direction, k, provider),
        "lists": measures(plain, market, owner, count) | _accuracy_report(accuracy, accuracy, market, seed),
        "reranked": [_reranked(market, (owner, count), k, floor, rules, accuracy, seed) for floor in floors],
    }


def measures(lists: np.ndarray, market: Market, owner: np.ndarray, count: int) -> dict[str, Any]:
    """Concentration, popularity lift and balance of lists int64 [Q, k]."""
    taken = slots(lists, len(market.given))
    given = market.given.astype(np.float64)
    own = by_provider(taken, owner, count)
    return {
        "slots": int(taken.sum()),
        "items": concentration(taken),
        "popularity_lift": popularity_lift(lists, market.seen, given),
        "providers": concentration(own) | balance_of(own, by_provider(given, owner, count)),
    }


def _accuracy(lists: np.ndarray, market: Market) -> np.ndarray:
    """NDCG of each hidden event, float64 [T]."""
    return list_ndcg(lists[market.row], market.target)


def _accuracy_report(
    values: np.ndarray, plain: np.ndarray, market: Market, seed: int
) -> dict[str, dict[str, Any]]:
    if not len(values):
        return {}
    level = cluster_bootstrap(values[:, None], market.row, seed=seed)
    report: dict[str, dict[str, Any]] = {"accuracy": {"queries": len(values), "ndcg": float(level.value[0])}}
    report["accuracy"] |= {"low": float(level.low[0]), "high": float(level.high[0])}
    if values is not plain:
        change = paired_difference(values[:, None], plain[:, None], market.row, seed=seed)
        bounds = [float(change.value[0]), float(change.low[0]), float(change.high[0])]
        report["accuracy"]["change"] = dict(zip(("difference", "low", "high"), bounds, strict=True))
    return report


def _reranked(
    market: Market,
    groups: tuple[np.ndarray, int],
    k: int,
    floor: float,
    rules: Rules,
    plain: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    started = time.monotonic()
    problem = problem_of(market, groups, k, floor, rules)
    found = balance(problem)
    chosen = found.chosen
    lists = as_lists(
        problem.query[chosen], problem.item[chosen], problem.value[chosen], (len(market.asking), k)
    )
    return {
        "floor": floor,
        "ceiling": rules.ceiling,
        "pairs": len(problem.query),
        "value": found.value,
        "gap": found.gap,
        "exact": found.exact,
        "floors_missed": int((found.short > 0).sum()),
        "slots_missing": int(found.short.sum()),
        "unfilled": found.unfilled,
        "seconds": round(time.monotonic() - started, 2),
        **measures(lists, market, *groups),
        **_accuracy_report(_accuracy(lists, market), plain, market, seed),
    }


def problem_of(market: Market, groups: tuple[np.ndarray, int], k: int, floor: float, rules: Rules) -> Problem:
    """Candidates, floors in whole slots and ceilings of a market.

    A pair is worth its probability p(item | user), so the total is the expected number of hits.
    """
    owner, count = groups
    free = len(market.answering) - np.diff(market.seen.indptr)
    wanted_slots = np.minimum(free, k)
    total = int(wanted_slots.sum())
    merit = np.ones(count) if rules.merit == "uniform" else by_provider(market.given, owner, count)
    least = np.floor(floor * total * merit / max(merit.sum(), 1)).astype(np.int64)
    most = total if rules.ceiling is None else max(int(rules.ceiling * total), 1)
    per_item = np.where(owner >= 0, 2 * least[owner] + 10 * (least[owner] > 0), 0)
    query, item, score = candidate_pairs(
        market.asking,
        market.answering,
        market.seen,
        pool=min(POOL_FACTOR * k, len(market.answering)),
        wanted=np.minimum(per_item, len(market.asking)),
    )
    ceiling = np.full(len(owner), most, dtype=np.int64)
    return Problem(query, item, np.exp(score), wanted_slots, owner, least, ceiling)


def _protocol(market: Market, direction: str, k: int, provider: str | None) -> dict[str, Any]:
    return {
        **market.words,
        "direction": direction,
        "lists": f"the {k} best unseen of each of {len(market.asking):,}",
        "provider": provider or "each row its own",
        "accuracy": f"NDCG@{k} of {len(market.row):,} hidden events"
        if len(market.row)
        else "not measured: nothing is hidden",
        "value": "probability of the listed item given the user: the expected number of hits",
    }


def parse_floors(text: str | None) -> tuple[float, ...]:
    """Read `0.5` or `0,0.25,0.5`.

    Raises:
        InputError: not numbers.
    """
    parts: Sequence[str] = [] if text is None else text.split(",")
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        raise InputError(f"--floor {text}: give shares from 0 to 1, e.g. 0.5 or 0,0.5,1") from None
