"""Cold items and cold users: vectors from the first n events, no retraining.

How a vector is made of them is in `duality.workflows.cold_scorers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from duality.data.dataset import Dataset
from duality.data.histories import Histories, item_histories, user_histories
from duality.data.split import Split
from duality.evaluation.baselines import MostPopular
from duality.evaluation.cold import GIVEN, ColdQueries, cold_queries, cold_world, never_met, queries_of
from duality.evaluation.neighbours import NearestNeighbours
from duality.evaluation.protocol import Measured, measure, report
from duality.evaluation.queries import ITEM_TO_USER, World
from duality.evaluation.ranking import Scorer
from duality.model.folder import ModelFolder
from duality.workflows.cold_controls import item_pools, user_pools
from duality.workflows.cold_scorers import GivenItems, GivenUsers, Make, encoded_items, encoded_users
from duality.workflows.scorers import States

HEADLINE = 5


def evaluate_cold(
    folder: ModelFolder,
    dataset: Dataset,
    split: Split,
    world: World,
    direction: str,
    *,
    baselines: bool,
    others: Callable[[States, ColdQueries], list[Scorer]] | None = None,
    **how: Any,
) -> tuple[dict[str, Any], dict[int, tuple[Measured, World, list[Scorer]]]]:
    """Report of one direction: the numbers for 5 events, and under `by_events` for 1, 3, 5 and 10;
    then, by number of events, what was measured, the world of it, and the scorers.

    Args:
        folder: a model that was trained under the split.
        split: "cold-item" or "cold-user".
        world: of the split's test part.
        others: more scorers to compare with, made once; for studies.
        how: `ks`, `seed` and `matched` of `duality.evaluation.protocol.evaluate`.
    """
    items = split.name == "cold-item"
    asked = _asked(dataset, split, how.get("seed", 0))
    queries = queries_of(world, asked, direction, GIVEN)
    states = States(folder.load(), dataset, world.visible)
    seed, by_events, evidence = how.get("seed", 0), {}, {}
    more = others(states, asked) if others else []
    pools = (item_pools(states) if items else user_pools()) if baselines else {}
    for n in GIVEN:
        now = cold_world(world, asked, n)
        scorers = _scorers(states, pools, asked.given(n), now, direction, items=items) + more
        found = measure(scorers, queries, now, direction, seen=never_met(world, direction), **how)
        by_events[n] = report(found, protocol=split.name, split="test", seed=seed)
        evidence[n] = found, now, scorers
    part = dict(by_events[HEADLINE])
    part["protocol"] = {
        **part["protocol"],
        "cold": f"{len(split.cold if split.cold is not None else ()):,} {'items' if items else 'users'} removed; "
        f"{np.count_nonzero(asked.arrivals.lengths):,} have more than {max(GIVEN)} events and are asked",
        "candidates": f"{found.pools[0].words}; no pair of the log but the target",
        "given": f"the first {HEADLINE} events; by_events has {', '.join(map(str, GIVEN))}",
    }
    part["by_events"] = {
        str(n): {
            key: value for key, value in found.items() if key not in ("protocol", "candidates", "queries")
        }
        for n, found in by_events.items()
    }
    return part, evidence


def _asked(dataset: Dataset, split: Split, seed: int) -> ColdQueries:
    hidden = np.zeros(dataset.num_events, dtype=bool)
    hidden[split.test] = True
    if split.name == "cold-user":
        return cold_queries(user_histories(dataset, hidden), seed=seed)
    return cold_queries(item_histories(dataset, hidden), ordered=dataset.timed, seed=seed)


def _scorers(
    states: States, pools: dict[str, Make], given: Histories, now: World, direction: str, *, items: bool
) -> list[Scorer]:
    """The model first, then its pools and what needs no model, if there are pools at all."""
    kind = GivenItems if items else GivenUsers
    scorers: list[Scorer] = [kind("duality", states, given, encoded_items if items else encoded_users)]
    if pools:
        scorers.append(MostPopular(now, direction))
        # What has no training event has no similarity; it is known by its history or not at all.
        if (direction == ITEM_TO_USER) == items:
            scorers.append(NearestNeighbours(now, direction))
    return scorers + [kind(name, states, given, make) for name, make in pools.items()]
