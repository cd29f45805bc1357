"""Cold items and cold users: vectors from the first n events, no retraining.

Shapes: U users, I items, B queries of a block, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch

from duality.data.batches import row_batches
from duality.data.dataset import Dataset
from duality.data.histories import Histories, item_histories, user_histories
from duality.data.split import Split
from duality.embeddings import ROWS, layout_of, stored_generated, stored_users
from duality.evaluation.baselines import MostPopular
from duality.evaluation.cold import GIVEN, ColdQueries, cold_queries, cold_world, never_met, queries_of
from duality.evaluation.neighbours import NearestNeighbours
from duality.evaluation.protocol import Measured, measure, report
from duality.evaluation.queries import ITEM_TO_USER, USER_TO_ITEM, Queries, World
from duality.evaluation.ranking import Scorer
from duality.generated import group_of
from duality.model.folder import ModelFolder
from duality.workflows.cold_controls import Pooled, weighed_pools
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
) -> tuple[dict[str, Any], tuple[Measured, World, list[Scorer]]]:
    """Report of one direction: the numbers for 5 events, and under `by_events` for 1, 3, 5 and 10;
    then what was measured for 5, the world of it, and the scorers.

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
    pools = weighed_pools(states) if items and baselines else {}
    for n in GIVEN:
        now = cold_world(world, asked, n)
        scorers = _scorers(ColdItems if items else ColdUsers, states, asked, n, now, direction, baselines)
        scorers += [Pooled(name, states, asked.given(n), pool) for name, pool in pools.items()] + more
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
    return part, evidence[HEADLINE]


def _asked(dataset: Dataset, split: Split, seed: int) -> ColdQueries:
    hidden = np.zeros(dataset.num_events, dtype=bool)
    hidden[split.test] = True
    if split.name == "cold-user":
        return cold_queries(user_histories(dataset, hidden), seed=seed)
    return cold_queries(item_histories(dataset, hidden), ordered=dataset.timed, seed=seed)


def _scorers(
    kind: type[ColdItems] | type[ColdUsers],
    states: States,
    asked: ColdQueries,
    n: int,
    world: World,
    direction: str,
    baselines: bool,
) -> list[Scorer]:
    scorers: list[Scorer] = [kind(states, asked, n)]
    if baselines:
        scorers.append(MostPopular(world, direction))
        # What has no training event has no similarity; it is known by its history or not at all.
        if (direction == ITEM_TO_USER) == (kind is ColdItems):
            scorers.append(NearestNeighbours(world, direction))
    return scorers


class ColdItems:
    """Items made by the item encoder from their first n users, beside the trained ones."""

    name = "duality"

    def __init__(self, states: States, asked: ColdQueries, n: int) -> None:
        self.states, self.given = states, asked.given(n)

    @cached_property
    def items(self) -> np.ndarray:
        """float32 [I, D + 3], stored form."""
        states, items = self.states, self.states.items.copy()
        owners = np.flatnonzero(self.given.lengths)
        vectors = _item_states(states, self.given)[torch.from_numpy(owners), : states.model.dim]
        items[owners] = stored_generated(vectors, states.made[2][group_of(self.given.lengths[owners])])
        return items

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        if direction == ITEM_TO_USER:
            return self.states.user_scores(self.items[queries.item[rows]], queries, rows)
        return self.states.users_before(queries.event[rows]) @ self.items.T


class ColdUsers:
    """Users encoded from their first n items, beside the others."""

    name = "duality"

    def __init__(self, states: States, asked: ColdQueries, n: int) -> None:
        self.states, self.given = states, asked.given(n)

    @cached_property
    def users(self) -> np.ndarray:
        """float32 [C, D + 3], stored form, of the cold users."""
        states = self.states
        vectors = states.vectors
        made = _last_states(
            states.dataset,
            self.given,
            states.model.empty_user,
            lambda events, layout: states.model.user_states(
                vectors[torch.from_numpy(states.dataset.event_item[events].astype(np.int64))], layout
            ),
        )
        return stored_users(states.model, made[torch.from_numpy(self.owners)])

    @cached_property
    def owners(self) -> np.ndarray:
        """int64 [C], rows of the cold users that are asked about."""
        return np.flatnonzero(self.given.lengths)

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        if direction == USER_TO_ITEM:
            return self.users[np.searchsorted(self.owners, queries.user[rows])] @ self.states.items.T
        vectors = self.states.items_before(queries, rows)
        scores = self.states.user_scores(vectors, queries, rows)
        scores[:, self.owners] = vectors @ self.users.T
        return scores


def _item_states(states: States, given: Histories) -> torch.Tensor:
    """Newest item state of every row, float32 [I, D + 2], its users taken strictly before they came."""
    before = torch.from_numpy(states.users_before(given.event)[:, : states.model.dim])
    place = np.empty(states.dataset.num_events, np.int64)
    place[given.event] = np.arange(len(given.event))
    return _last_states(
        states.dataset,
        given,
        states.model.empty_item,
        lambda events, layout: states.model.item_states(before[torch.from_numpy(place[events])], layout),
    )


@torch.inference_mode()
def _last_states(dataset: Dataset, given: Histories, empty: torch.Tensor, encode: Any) -> torch.Tensor:
    found = empty.detach().repeat(given.num_owners, 1)
    for owners in row_batches(given, ROWS):
        events, lengths = given.packed(owners)
        layout = layout_of(dataset, events, lengths)
        found[torch.from_numpy(owners)] = encode(events, layout)[torch.from_numpy(layout.last_rows)]
    return found
