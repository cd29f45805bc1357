"""Items as what their users' states say when they are merely pooled: the controls of the item encoder.

A pool makes a vector of the mean user and of how many users that is. `Weighed` weighs its scores as
those of generated vectors are (`duality.generated`), so that only the vectors differ.

Shapes: H events of the item histories, D dimensions, B queries of a block, N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch

from duality.data.histories import item_histories
from duality.embeddings import stored_generated
from duality.evaluation.queries import Queries
from duality.generated import group_of, weigh
from duality.workflows.scorers import States

Pool = Callable[[np.ndarray, np.ndarray], np.ndarray]  # float32 [N, D], int64 [N] to float32 [N, D]


def centred_means(states: States) -> Pool:
    """The mean user, the population's mean subtracted; 0 without users."""
    population = states.model.population_mean.numpy()
    return lambda means, known: np.where(known[:, None] > 0, means - population, np.float32(0.0))


def log_odds(states: States) -> Pool:
    """Those trained items that the users were likelier to choose next than people are.

    Item j' weighs softmax over j' of the users' mean log p(j' | u) minus the population's. Partitions
    are the same for every j' and drop out, so both means are inner products with a mean state:
    <mean u - population mean, e_j'>. Without any user all trained items weigh the same.

    Cost: one softmax over the trained items for each row.
    """
    model = states.model
    table, centred = model.item_table.detach()[model.trained], centred_means(states)

    def pool(means: np.ndarray, known: np.ndarray) -> np.ndarray:
        odds = torch.from_numpy(centred(means, known).astype(np.float32)) @ table.T
        return (odds.softmax(1) @ table).numpy()

    return pool


class ItemMeans:
    """Plain means of items' users as they were when they came."""

    def __init__(self, states: States) -> None:
        self.states = states

    @cached_property
    def _sums(self) -> np.ndarray:
        """float64 [H + 1, D]: running sums over the item histories."""
        rows = self.states.before_events.numpy()[self.states.item_histories[1]]
        return np.concatenate((np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0, dtype=np.float64)))

    def of(self, queries: Queries, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Means of the users that each query may know of its item, float32 [B, D], and how many, int64 [B]."""
        known = self.states.known_users(queries, rows)
        return self._between(self.states.item_histories[0][queries.item[rows]], known)

    def after(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same after rows int64 [N] of the item histories; -1 is an item without users."""
        indptr = self.states.item_histories[0]
        start = np.where(rows >= 0, indptr[np.searchsorted(indptr, rows, side="right") - 1], 0)
        return self._between(start, rows + 1 - start)

    def _between(self, start: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = (self._sums[start + known] - self._sums[start]) / known.clip(min=1)[:, None]
        return mean.astype(np.float32), known


class Weighed:
    """Pooled items in stored form, weighed by counting arrivals."""

    def __init__(self, states: States, pool: Pool, means: ItemMeans | None = None) -> None:
        self.states, self.pool = states, pool
        self.means = means or ItemMeans(states)

    @cached_property
    def weights(self) -> np.ndarray:
        """float32 [GROUPS, 3]."""
        states = self.states
        histories = item_histories(states.dataset, states.visible)
        return weigh(
            states.model,
            states.dataset,
            states.visible,
            histories,
            states.before_events,
            lambda rows: torch.from_numpy(self.pool(*self.means.after(rows))),
        )

    def stored(self, means: np.ndarray, known: np.ndarray) -> np.ndarray:
        """float32 [N, D + 3] of mean users float32 [N, D] of `known` users int64 [N]."""
        return stored_generated(torch.from_numpy(self.pool(means, known)), self.weights[group_of(known)])
