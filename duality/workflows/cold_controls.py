"""Cold items without an item encoder: what their first users' states say when they are merely pooled.

Both controls answer in both directions, beside the trained items and on their scale, so that what G adds can be
told from what its input already says.

Shapes: U users, I items, H events of the item histories, B queries of a block, D dimensions.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from duality.data.histories import Histories, item_histories
from duality.embeddings import stored_generated
from duality.evaluation.queries import ITEM_TO_USER, Queries
from duality.generated import group_of, level
from duality.workflows.controls import LogOdds
from duality.workflows.scorers import States


def means_of_first(states: States, given: Histories) -> np.ndarray:
    """Mean of every item's given users as they were before they came, float32 [I, D]; 0 without any."""
    before = states.users_before(given.event)[:, : states.model.dim]
    means = np.zeros((given.num_owners, states.model.dim), np.float32)
    np.add.at(means, np.repeat(np.arange(given.num_owners), given.lengths), before)
    return means / given.lengths.clip(min=1)[:, None].astype(np.float32)


class _Pooled:
    """Items that were given users get `vectors`, the others keep theirs."""

    def __init__(self, states: States, given: Histories) -> None:
        self.states, self.given = states, given

    def vectors(self, owners: np.ndarray) -> np.ndarray:
        """Stored form float32 [n, D + 2] of items int64 [n] that were given users."""
        raise NotImplementedError

    @cached_property
    def items(self) -> np.ndarray:
        """float32 [I, D + 2], stored form."""
        items, owners = self.states.items.copy(), np.flatnonzero(self.given.lengths)
        items[owners] = self.vectors(owners)
        return items

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        if direction == ITEM_TO_USER:
            return self.states.user_scores(self.items[queries.item[rows]], queries, rows)
        return self.states.users_before(queries.event[rows]) @ self.items.T


class ColdLogOdds(_Pooled):
    """The trained items that the first users were likelier to choose than people are (`controls.LogOdds`)."""

    name = "log_odds"

    def vectors(self, owners: np.ndarray) -> np.ndarray:
        """Stored form float32 [n, D + 2]."""
        means = means_of_first(self.states, self.given)[owners]
        return LogOdds(self.states).pooled(means, self.given.lengths[owners])


class ColdCentredMean(_Pooled):
    """The mean of the first users, population mean subtracted, on the scale and the level of trained items.

    The scale is the least-squares fit of trained items' vectors by the centred means of their users, the
    level that of generated items (`duality.generated`): both from training events.
    """

    name = "centred_mean"

    def vectors(self, owners: np.ndarray) -> np.ndarray:
        """Stored form float32 [n, D + 2]."""
        centred = means_of_first(self.states, self.given)[owners] - self.states.model.population_mean.numpy()
        made = np.append(centred * self._scale, np.zeros((len(owners), 1), np.float32), axis=1)
        return stored_generated(torch.from_numpy(made), self._levels[group_of(self.given.lengths[owners])])

    @cached_property
    def _histories(self) -> Histories:
        return item_histories(self.states.dataset, self.states.visible)

    @cached_property
    def _running(self) -> np.ndarray:
        """float32 [H, D]: centred mean after each user of the visible histories."""
        histories, model = self._histories, self.states.model
        rows = self.states.before_events.numpy()[histories.event].astype(np.float64)
        sums = np.concatenate((np.zeros((1, model.dim)), np.cumsum(rows, axis=0)))
        owner = np.repeat(np.arange(histories.num_owners), histories.lengths)
        start = histories.indptr[owner]
        count = np.arange(1, len(owner) + 1) - start
        means = (sums[1:] - sums[start]) / count[:, None] - model.population_mean.numpy()
        return means.astype(np.float32)

    @cached_property
    def _scale(self) -> np.float32:
        histories, model = self._histories, self.states.model
        known = np.flatnonzero((histories.lengths > 0) & model.trained.numpy())
        means, table = (
            self._running[histories.indptr[known + 1] - 1],
            model.item_table.detach().numpy()[known],
        )
        return np.float32((means * table).sum() / (means * means).sum())

    @cached_property
    def _levels(self) -> np.ndarray:
        states, histories = self.states, self._histories
        after = np.append(self._running * self._scale, np.zeros((len(self._running), 1), np.float32), axis=1)
        return level(
            states.model,
            states.dataset,
            states.visible,
            histories,
            states.before_events,
            torch.from_numpy(after),
        )
