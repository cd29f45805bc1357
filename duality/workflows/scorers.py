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
    LEVEL,
    STORED_EXTRA,
    Made,
    generated_items,
    item_vectors,
    needed_items,
    needs_all,
    packed_item_states,
    states_before_events,
    stored_generated,
    stored_item_vectors,
    stored_items,
    stored_users,
    user_states,
    user_states_after,
)
from duality.evaluation.past import Clock
from duality.evaluation.queries import DIRECTIONS, USER_TO_ITEM, Queries
from duality.generated import group_of
from duality.intensity import FadingCounts
from duality.model.two_sided import TwoSided

# Stored users gathered at once for queries at different moments: 64 MB at 66 dimensions.
GATHERED = 250_000
UNASKED = (
    -1e30
)  # level of items that are not asked about: below all others, and finite, for products with zeros


class States:
    """What a model makes of the visible events; each part is computed once, when first asked for."""

    def __init__(self, model: TwoSided, dataset: Dataset, visible: np.ndarray) -> None:
        self.model, self.dataset, self.visible = model, dataset, visible
        # Of the last queries: most ask about some users only, and often more than once.
        self._asked: tuple[Queries | None, np.ndarray, np.ndarray] = (None, np.empty(0), np.empty(0))

    @cached_property
    def made(self) -> Made:
        """What `generated_items` returns, of all that is visible."""
        return generated_items(self.model, self.dataset, self.visible)

    @property
    def _needed(self) -> Made:
        """As much of `made` as `items` and `vectors` ask for; the share of g may change between two questions."""
        return self.made if "made" in self.__dict__ or needs_all(self.model) else self._unseen

    @cached_property
    def _unseen(self) -> Made:
        return needed_items(self.model, self.dataset, self.visible)

    @property
    def _static(self) -> bool:
        """Whether no item's vector depends on its users."""
        return not float(self.model.generated_share) and bool(self.model.trained.all())

    @cached_property
    def items(self) -> np.ndarray:
        """float32 [I, D + 3], stored form, of all that is visible."""
        made = None if self._static else self._needed
        return stored_item_vectors(self.model, self.dataset, self.visible, made)

    def items_before(self, queries: Queries, rows: slice) -> np.ndarray:
        """float32 [B, D + 3], stored form: the queries' items, made from the users before each query."""
        if self._static or queries.time is None or self.dataset.event_time is None:
            return self.items[queries.item[rows]]
        trained, generated = self.ends_before(queries, rows)
        share = np.float32(self.model.generated_share)
        return (1 - share) * trained + share * generated

    def ends_before(self, queries: Queries, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """What `items_before` mixes, as `stored_ends`: float32 [B, D + 3] twice."""
        item, known = queries.item[rows].astype(np.int64), self.known_users(queries, rows)
        generated = self.alone_before(queries, rows)
        trained = stored_items(self.model.item_rows(torch.from_numpy(item)))
        unseen = ~self.model.trained.numpy()[item]
        trained[unseen] = generated[unseen]
        alone = (known == 0) & ~unseen
        generated[alone] = trained[alone]
        return trained, generated

    def alone_before(self, queries: Queries, rows: slice) -> np.ndarray:
        """The queries' items as made from the users before each query alone, stored form float32 [B, D + 3]."""
        made = torch.from_numpy(self.generated_before(queries, rows))
        return stored_generated(made, self.made[2][group_of(self.known_users(queries, rows))])

    def generated_before(self, queries: Queries, rows: slice) -> np.ndarray:
        """float32 [B, D]: g of the queries' items after the users before each query."""
        known = self.known_users(queries, rows)
        last = self.item_histories[0][queries.item[rows]] + known - 1
        empty = self.model.empty_item.detach().numpy()[: self.model.dim]
        return np.where(known[:, None] > 0, self._packed[last.clip(min=0)], empty)

    @cached_property
    def _packed(self) -> np.ndarray:
        """float32 [H, D]: g after each event of the item histories."""
        histories = item_histories(self.dataset, self.visible)
        return packed_item_states(self.model, self.dataset, histories, self.before_events).numpy()

    @cached_property
    def users(self) -> np.ndarray:
        """float32 [U, D + 3], stored form, after all visible events."""
        return stored_users(self.model, user_states(self.model, self.dataset, self._histories, self.vectors))

    def users_asked(self, queries: Queries, rows: slice) -> np.ndarray:
        """float32 [B, D + 3], stored form: the queries' users after all visible events, asked when the query is
        where the model is told that."""
        users = queries.user[rows]
        if self.model.config.request_time and queries.time is not None:
            return self._stored(users, queries.time[rows])
        if "users" in self.__dict__:
            return self.users[users]
        if self._asked[0] is not queries:
            some = np.unique(queries.user)
            self._asked = queries, some, self._stored(some)
        _, some, vectors = self._asked
        return vectors[np.searchsorted(some, users)]

    def _stored(self, users: np.ndarray, asked: np.ndarray | None = None) -> np.ndarray:
        """Some users after all visible events, stored form float32 [N, D + 3]; asked at int64 [N]."""
        events, lengths = self._histories.packed(users.astype(np.int64))
        some = Histories(np.concatenate(([0], np.cumsum(lengths))), events)
        return stored_users(self.model, user_states(self.model, self.dataset, some, self.vectors, asked))

    @cached_property
    def users_after(self) -> np.ndarray:
        """float32 [H + U, D + 3], stored form: each user after 0, 1, ... of its visible events, in turn."""
        states = user_states_after(self.model, self.dataset, self._histories, self.vectors)
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

    @cached_property
    def vectors(self) -> torch.Tensor:
        """float32 [I, D]: what histories are made of."""
        made = None if bool(self.model.trained.all()) else self._needed
        return item_vectors(self.model, self.dataset, self.visible, made)

    def users_before(self, events: np.ndarray) -> np.ndarray:
        """float32 [B, D + 3], stored form: the users of events int64 [B], visible or not, after the
        visible events that come before in their own order."""
        user, histories = self.dataset.event_user[events].astype(np.int64), self._histories
        count = np.searchsorted(histories.event, events) - histories.indptr[user]
        return self.users_after[histories.indptr[user] + user + count]

    def user_scores(self, vectors: np.ndarray, queries: Queries, rows: slice) -> np.ndarray:
        """Inner products of item vectors [B, D + 3] with all users as they were strictly before each
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


class TrainedStates(States):
    """Trained items alone, of visible events that are all training's: what judges an epoch.

    The others come last: making and weighing them takes most of a validation (LOG.md, 2026-11-22).
    """

    @cached_property
    def items(self) -> np.ndarray:
        """float32 [I, D + 3], stored form."""
        stored = stored_items(self.model.item_table)
        stored[~self.model.trained.numpy(), LEVEL] = UNASKED
        return stored

    @cached_property
    def vectors(self) -> torch.Tensor:
        """float32 [I, D]: what histories are made of."""
        return self.model.item_table.detach()


class Lately:
    """What fading counts add to scores at the moment of a query; nothing where the log has no time.

    Args:
        states: whose visible events count.
        direction: popularity of items for user-to-item, activity of users for item-to-user.
    """

    def __init__(self, states: States, direction: str) -> None:
        self.states, self.direction = states, direction
        self._of: dict[float, FadingCounts] = {}

    def bias(self, queries: Queries, rows: slice) -> np.ndarray | float:
        """With the model's weight and fading time: float32 [B, I] or [B, U], or 0."""
        model = self.states.model
        bias = model.popularity if self.direction == USER_TO_ITEM else model.activity
        weight, seconds = bias.tolist()
        if not weight or queries.time is None or self.states.dataset.event_time is None:
            return 0.0
        return np.float32(weight) * self.log_counts(queries, rows, seconds)

    def log_counts(self, queries: Queries, rows: slice, seconds: float) -> np.ndarray:
        """log A of every item or user strictly before each query, float32 [B, I] or [B, U]."""
        if seconds not in self._of:
            owner, time, number = self._events
            self._of[seconds] = FadingCounts(owner, time, number, seconds)
        assert queries.time is not None
        moments = queries.time[rows]
        return self._of[seconds].at(moments, self._clock.counts(moments))

    @cached_property
    def _events(self) -> tuple[np.ndarray, np.ndarray, int]:
        dataset, visible = self.states.dataset, np.flatnonzero(self.states.visible)
        assert dataset.event_time is not None
        by_item = self.direction == USER_TO_ITEM
        owner = dataset.event_item if by_item else dataset.event_user
        return (
            owner[visible],
            dataset.event_time[visible],
            dataset.num_items if by_item else dataset.num_users,
        )

    @cached_property
    def _clock(self) -> Clock:
        return Clock(*self._events)


class ModelScorer:
    """The model under test by one inner product in both directions: log p(item | user), and who or what
    has been about lately if validation gave that a weight."""

    name = "duality"

    def __init__(self, states: States) -> None:
        self.states = states
        self._lately = {direction: Lately(states, direction) for direction in DIRECTIONS}

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        return self.preference(queries, rows, direction) + self._lately[direction].bias(queries, rows)

    def preference(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """log p(item | user) alone, float32 [B, I] or [B, U]."""
        if direction == USER_TO_ITEM:
            return self.states.users_asked(queries, rows) @ self.states.items.T
        return self.states.user_scores(self.states.items_before(queries, rows), queries, rows)


class ItemEncoderScorer:
    """Items known by their users alone: g(j, s) of the users before the query, item to user."""

    name = "item_encoder"

    def __init__(self, states: States) -> None:
        self.states = states

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, U]."""
        return self.states.user_scores(self.states.alone_before(queries, rows), queries, rows)


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
        vectors = np.concatenate((mean, np.zeros((len(mean), STORED_EXTRA))), axis=1).astype(np.float32)
        return self.states.user_scores(vectors, queries, rows)
