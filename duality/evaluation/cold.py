"""Cold rows: what is given of them, what is asked, and who competes.

A cold item (or user) was removed from training and from every history. It is given its first n events
and asked about later ones; the same queries for every n, so that the numbers compare.

Shapes: E events, C cold rows, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from duality.data.histories import Histories, oldest
from duality.errors import InputError
from duality.evaluation.queries import Queries, World, make_queries, pair_matrix

GIVEN = (1, 3, 5, 10)
# Queries per cold row: many more would let a few popular ones decide.
MOST = 20


@dataclass(frozen=True, eq=False)
class ColdQueries:
    """Cold rows with the events that they are given and asked.

    Args:
        arrivals: events of each cold row that has enough of them, in order of arrival, by row.
        events: int64 [Q], events that are asked.
        few: cold rows left out because they have too few events.
    """

    arrivals: Histories
    events: np.ndarray
    few: int

    def given(self, n: int) -> Histories:
        """The first n events of each cold row."""
        return oldest(self.arrivals, n)


def cold_queries(
    arrivals: Histories,
    given: Sequence[int] = GIVEN,
    most: int = MOST,
    *,
    ordered: bool = True,
    seed: int = 0,
) -> ColdQueries:
    """Choose what is given and asked.

    Args:
        arrivals: events of the cold rows, oldest first; other rows are empty.
        given: numbers of events that will be given; what is asked comes after the largest.
        most: events asked per row, drawn at random.
        ordered: False shuffles the events of a row first: there is no time to order them by.
        seed: of the draws.

    Raises:
        InputError: no cold row has more than max(given) events.
    """
    rng = np.random.default_rng(seed)
    first = max(given)
    enough = arrivals.lengths > first
    if not enough.any():
        raise InputError(
            f"no cold row has more than {first} events: nothing can be asked after the first {first}"
        )
    owner = np.repeat(np.arange(arrivals.num_owners), arrivals.lengths)
    event = arrivals.event if ordered else arrivals.event[np.lexsort((rng.random(len(owner)), owner))]
    event, owner = event[enough[owner]], owner[enough[owner]]
    kept = Histories(np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=len(enough))))), event)
    late = np.arange(len(event)) - kept.indptr[owner] >= first
    chance = np.where(late, rng.random(len(event)), 2.0)
    place = np.empty(len(event), np.int64)
    order = np.lexsort((chance, owner))
    place[order] = np.arange(len(event)) - kept.indptr[owner[order]]
    few = int(np.count_nonzero((arrivals.lengths > 0) & ~enough))
    return ColdQueries(kept, np.sort(event[late & (place < most)]), few)


def cold_world(world: World, asked: ColdQueries, n: int) -> World:
    """The world in which each cold row has its first n events."""
    visible = world.visible.copy()
    visible[asked.given(n).event] = True
    return replace(world, visible=visible)


def queries_of(world: World, asked: ColdQueries, direction: str, given: Sequence[int]) -> Queries:
    """Queries for one direction; `dropped` says how many cold rows have too few events."""
    queries = make_queries(cold_world(world, asked, max(given)), asked.events, direction)
    few = {f"cold row with at most {max(given)} events": asked.few} if asked.few else {}
    return replace(queries, dropped={**queries.dropped, **few})


def never_met(world: World, direction: str) -> sparse.csr_matrix:
    """Every pair of the log: only pairs that never meet compete with the target."""
    return pair_matrix(world, np.ones(len(world.event_user), dtype=bool), direction)
