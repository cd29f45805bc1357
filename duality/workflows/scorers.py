"""A trained model as scorers for the evaluation, and the controls made of the same states.

Every scorer answers with what is visible at the query: user states end at the last visible event,
item states made from users end before the query's time.

Shapes: U users, I items, E events, D dimensions, B queries of a block.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from duality.data.dataset import Dataset
from duality.data.histories import item_histories, user_histories
from duality.embeddings import (
    item_vectors,
    packed_item_states,
    states_before_events,
    stored_items,
    stored_users,
    user_states,
)
from duality.evaluation.queries import USER_TO_ITEM, Queries
from duality.model.two_sided import TwoSided


class States:
    """What a model makes of the visible events; each part is computed once, when first asked for."""

    def __init__(self, model: TwoSided, dataset: Dataset, visible: np.ndarray) -> None:
        self.model, self.dataset, self.visible = model, dataset, visible

    @cached_property
    def items(self) -> np.ndarray:
        """float32 [I, D + 2], stored form."""
        vectors, bias, _ = item_vectors(self.model, self.dataset, self.visible)
        return stored_items(vectors, bias)

    @cached_property
    def users(self) -> np.ndarray:
        """float32 [U, D + 2], stored form."""
        histories = user_histories(self.dataset, self.visible)
        vectors = torch.from_numpy(self.items[:, : self.model.dim].copy())
        return stored_users(self.model, user_states(self.model, self.dataset, histories, vectors))

    @cached_property
    def item_histories(self) -> tuple[np.ndarray, np.ndarray]:
        """indptr int64 [I + 1] and event numbers int64 of the visible item histories."""
        histories = item_histories(self.dataset, self.visible)
        return histories.indptr, histories.event

    @cached_property
    def before_events(self) -> torch.Tensor:
        """float32 [E, D]: the user strictly before each visible event."""
        return states_before_events(self.model, self.dataset, self.visible)

    def known_users(self, queries: Queries, rows: slice) -> np.ndarray:
        """int64 [B]: how many users of its item each query may know: those before its time."""
        indptr, _ = self.item_histories
        items = queries.item[rows].astype(np.int64)
        if queries.time is None or self.dataset.event_time is None:
            return np.diff(indptr)[items]
        moments, keys = self._arrival_keys
        asked = items * (len(moments) + 1) + np.searchsorted(moments, queries.time[rows], side="left")
        return np.searchsorted(keys, asked, side="left") - indptr[items]

    @cached_property
    def _arrival_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct times of the item histories, and one sorted number per event: item, then time."""
        indptr, event = self.item_histories
        assert self.dataset.event_time is not None
        moments, place = np.unique(self.dataset.event_time[event], return_inverse=True)
        owner = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        return moments, owner * (len(moments) + 1) + place


class ModelScorer:
    """The model under test: log p(item | user) by one inner product, in both directions."""

    name = "duality"

    def __init__(self, states: States) -> None:
        self.states = states

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        users, items = self.states.users, self.states.items
        if direction == USER_TO_ITEM:
            return users[queries.user[rows]] @ items.T
        return items[queries.item[rows]] @ users.T


class ItemEncoderScorer:
    """Items known by their users alone: g(j, s) of the users before the query, item to user."""

    name = "item_encoder"

    def __init__(self, states: States) -> None:
        self.states = states

    @cached_property
    def _packed(self) -> np.ndarray:
        """float32 [H, D]: g after each event of the item histories."""
        states = self.states
        histories = item_histories(states.dataset, states.visible)
        return packed_item_states(states.model, histories, states.before_events).numpy()

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, U]."""
        states = self.states
        known = states.known_users(queries, rows)
        last = states.item_histories[0][queries.item[rows]] + known - 1
        empty = states.model.empty_item.detach().numpy()
        vectors = np.where(known[:, None] > 0, self._packed[last.clip(min=0)], empty)
        return vectors @ states.users[:, : states.model.dim].T + states.users[:, states.model.dim]


class CentredMean:
    """Control: the mean of the item's users (as they came), population mean subtracted."""

    name = "centred_mean"

    def __init__(self, states: States) -> None:
        self.states = states

    @cached_property
    def _sums(self) -> np.ndarray:
        """float64 [H + 1, D]: running sums over the item histories."""
        rows = self.states.before_events.numpy()[self.states.item_histories[1]].astype(np.float64)
        rows -= self.states.model.population_mean.numpy()
        return np.concatenate((np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)))

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float64 [B, U]."""
        known = self.states.known_users(queries, rows)
        start = self.states.item_histories[0][queries.item[rows]]
        mean = (self._sums[start + known] - self._sums[start]) / known.clip(min=1)[:, None]
        return mean @ self.states.users[:, : self.states.model.dim].T
