"""A trained model as scorers for the evaluation, and the controls made of the same states.

Every scorer answers with what is visible at the query: for item-to-user with times, users are as
they were strictly before the query, and so are items that are made from users.

Shapes: U users, I items, E events, D dimensions, B queries of a block.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from duality.data.dataset import Dataset
from duality.data.histories import Histories, item_histories, user_histories
from duality.embeddings import (
    item_vectors,
    packed_item_states,
    states_before_events,
    stored_items,
    stored_users,
    user_states,
    user_states_after,
)
from duality.evaluation.past import Clock
from duality.evaluation.queries import USER_TO_ITEM, Queries
from duality.model.two_sided import TwoSided

# Stored users gathered at once for queries at different moments: 64 MB at 66 dimensions.
GATHERED = 250_000


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
        """float32 [U, D + 2], stored form, after all visible events."""
        return stored_users(self.model, user_states(self.model, self.dataset, self._histories, self._vectors))

    @cached_property
    def users_after(self) -> np.ndarray:
        """float32 [H + U, D + 2], stored form: each user after 0, 1, ... of its visible events, in turn."""
        states = user_states_after(self.model, self.dataset, self._histories, self._vectors)
        return np.concatenate([stored_users(self.model, part) for part in states.split(65_536)])

    @cached_property
    def clock(self) -> Clock:
        """Visible events of the users in time order."""
        dataset = self.dataset
        assert dataset.event_time is not None
        events = self._histories.event
        return Clock(dataset.event_user[events], dataset.event_time[events], dataset.num_users)

    @cached_property
    def _histories(self) -> Histories:
        return user_histories(self.dataset, self.visible)

    @property
    def _vectors(self) -> torch.Tensor:
        return torch.from_numpy(self.items[:, : self.model.dim].copy())

    def users_before(self, events: np.ndarray) -> np.ndarray:
        """float32 [B, D + 2], stored form: the users of events int64 [B], visible or not, after the
        visible events that come before in their own order."""
        user, histories = self.dataset.event_user[events].astype(np.int64), self._histories
        count = np.searchsorted(histories.event, events) - histories.indptr[user]
        return self.users_after[histories.indptr[user] + user + count]

    def user_scores(self, vectors: np.ndarray, queries: Queries, rows: slice) -> np.ndarray:
        """Inner products of item vectors [B, D + 2] with all users as they were strictly before each
        query, float32 [B, U]; as they are after all visible events where the log has no time."""
        if queries.time is None or self.dataset.event_time is None:
            return vectors @ self.users.T
        counts = self.clock.counts(queries.time[rows])
        start = self._histories.indptr[:-1] + np.arange(self.dataset.num_users)
        scores = vectors @ self.users_after[start + counts[0]].T
        changed = np.flatnonzero((counts != counts[0]).any(axis=0))
        for part in np.array_split(changed, -(-len(changed) * len(vectors) // GATHERED) or 1):
            states = self.users_after[start[part] + counts[:, part]]
            scores[:, part] = np.matmul(states, vectors[:, :, None])[:, :, 0]
        return scores

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
        if direction == USER_TO_ITEM:
            return self.states.users[queries.user[rows]] @ self.states.items.T
        return self.states.user_scores(self.states.items[queries.item[rows]], queries, rows)


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
        ends = np.tile(np.array([1.0, 0.0], np.float32), (len(vectors), 1))
        return states.user_scores(np.concatenate((vectors, ends), axis=1), queries, rows)


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
        """float32 [B, U]."""
        known = self.states.known_users(queries, rows)
        start = self.states.item_histories[0][queries.item[rows]]
        mean = (self._sums[start + known] - self._sums[start]) / known.clip(min=1)[:, None]
        vectors = np.concatenate((mean, np.zeros((len(mean), 2))), axis=1).astype(np.float32)
        return self.states.user_scores(vectors, queries, rows)
