"""Cold items without an item encoder: what their first users' states say when they are merely pooled.

Both controls answer in both directions, beside the trained items and weighed as generated ones are, so that
what G adds can be told from what its input already says.

Shapes: U users, I items, B queries of a block, D dimensions.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from duality.data.histories import Histories
from duality.evaluation.queries import ITEM_TO_USER, Queries
from duality.workflows.pooling import ItemMeans, Weighed, centred_means, log_odds
from duality.workflows.scorers import States


def means_of_first(states: States, given: Histories) -> np.ndarray:
    """Mean of every item's given users as they were before they came, float32 [I, D]; 0 without any."""
    before = states.users_before(given.event)[:, : states.model.dim]
    means = np.zeros((given.num_owners, states.model.dim), np.float32)
    np.add.at(means, np.repeat(np.arange(given.num_owners), given.lengths), before)
    return means / given.lengths.clip(min=1)[:, None].astype(np.float32)


class Pooled:
    """Items that were given users get what these pool to, the others keep their vectors.

    Args:
        given: the first users of some items.
        weighed: makes stored items of mean users.
    """

    def __init__(self, name: str, states: States, given: Histories, weighed: Weighed) -> None:
        self.name, self.states, self.given, self.weighed = name, states, given, weighed

    @cached_property
    def items(self) -> np.ndarray:
        """float32 [I, D + 3], stored form."""
        items, owners = self.states.items.copy(), np.flatnonzero(self.given.lengths)
        means = means_of_first(self.states, self.given)[owners]
        items[owners] = self.weighed.stored(means, self.given.lengths[owners])
        return items

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        if direction == ITEM_TO_USER:
            return self.states.user_scores(self.items[queries.item[rows]], queries, rows)
        return self.states.users_before(queries.event[rows]) @ self.items.T


def weighed_pools(states: States) -> dict[str, Weighed]:
    """`centred_mean` and `log_odds` (`duality.workflows.pooling`), fitted to the events of trained items."""
    means, pools = ItemMeans(states), {"centred_mean": centred_means, "log_odds": log_odds}
    return {name: Weighed(states, pool(states), means) for name, pool in pools.items()}
