"""Rows that training never saw, made of what they were given, beside everybody else.

Who makes them is told from how they compete: the encoders of the model (here) and the controls
(`duality.workflows.cold_controls`) make vectors of the same events, and these answer the same queries.

Shapes: U users, I items, B queries of a block, C rows that were given events, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch

from duality.data.batches import row_batches
from duality.data.histories import Histories
from duality.embeddings import ROWS, layout_of, stored_generated, stored_users
from duality.encoders.base import Layout
from duality.evaluation.queries import ITEM_TO_USER, USER_TO_ITEM, Queries
from duality.generated import group_of
from duality.workflows.scorers import Lately, States

# What was given to the vectors of its rows that are not empty: float32 [C, D + 3], stored form.
Make = Callable[[States, Histories], np.ndarray]


class GivenItems:
    """Items that were given users are made of them, the others keep their vectors.

    Args:
        name: in results.
        given: first users of some items.
        make: makes their vectors, when first asked.
    """

    def __init__(self, name: str, states: States, given: Histories, make: Make) -> None:
        self.name, self.states, self.given, self._make = name, states, given, make

    @cached_property
    def items(self) -> np.ndarray:
        """float32 [I, D + 3], stored form."""
        items = self.states.items.copy()
        items[np.flatnonzero(self.given.lengths)] = self._make(self.states, self.given)
        return items

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        if direction == ITEM_TO_USER:
            return self.states.user_scores(self.items[queries.item[rows]], queries, rows)
        return self.states.users_before(queries.event[rows]) @ self.items.T


class GivenUsers:
    """Users that were given items are made of them, the others from their own histories.

    Items have their popularity of the moment, as in an index. How active users are plays no part: those that are
    given items have no other events.

    Args:
        name: in results.
        given: first items of some users.
        make: makes their vectors, when first asked.
    """

    def __init__(self, name: str, states: States, given: Histories, make: Make) -> None:
        self.name, self.states, self.given, self._make = name, states, given, make
        self._lately = Lately(states, USER_TO_ITEM)

    @cached_property
    def owners(self) -> np.ndarray:
        """int64 [C], users that were given items."""
        return np.flatnonzero(self.given.lengths)

    @cached_property
    def users(self) -> np.ndarray:
        """float32 [C, D + 3], stored form."""
        return self._make(self.states, self.given)

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        if direction == USER_TO_ITEM:
            users = self.users[np.searchsorted(self.owners, queries.user[rows])]
            return users @ self.states.items.T + self._lately.bias(queries, rows)
        vectors = self.states.items_before(queries, rows)
        scores = self.states.user_scores(vectors, queries, rows)
        scores[:, self.owners] = vectors @ self.users.T
        return scores


def encoded_items(states: States, given: Histories) -> np.ndarray:
    """Items by the item encoder, their users taken strictly before they came: float32 [C, D + 3]."""
    before = torch.from_numpy(states.users_before(given.event)[:, : states.model.dim])
    place = np.empty(states.dataset.num_events, np.int64)
    place[given.event] = np.arange(len(given.event))

    def encode(events: np.ndarray, layout: Layout) -> torch.Tensor:
        return states.model.item_states(before[torch.from_numpy(place[events])], layout)

    made = _last_states(states, given, states.dataset.event_item, encode, states.model.empty_item)[
        :, : states.model.dim
    ]
    lengths = given.lengths[given.lengths > 0]
    return stored_generated(made, states.made[2][group_of(lengths)])


def encoded_users(states: States, given: Histories) -> np.ndarray:
    """Users by the user encoder: float32 [C, D + 3]."""

    def encode(events: np.ndarray, layout: Layout) -> torch.Tensor:
        items = states.dataset.event_item[events].astype(np.int64)
        return states.model.user_states(states.vectors[torch.from_numpy(items)], layout)

    return stored_users(
        states.model, _last_states(states, given, states.dataset.event_user, encode, states.model.empty_user)
    )


@torch.inference_mode()
def _last_states(
    states: States,
    given: Histories,
    owner: np.ndarray,
    encode: Callable[[np.ndarray, Layout], torch.Tensor],
    empty: torch.Tensor,
) -> torch.Tensor:
    """State of every row that is not empty after its last event, [C, width of `empty`]."""
    found = empty.detach().repeat(given.num_owners, 1)
    for owners in row_batches(given, ROWS):
        events, lengths = given.packed(owners)
        layout = layout_of(states.model, states.dataset, events, lengths, owner)
        found[torch.from_numpy(owners)] = encode(events, layout)[torch.from_numpy(layout.last_rows)]
    return found[torch.from_numpy(np.flatnonzero(given.lengths))]
