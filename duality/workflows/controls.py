"""Controls of the two-sided study: what a one-sided model's states, or a network without order, can do.

Each stands for one rival explanation of a result. `Transposed`: scores need no partition. `MeanOfUsers`
and `LogOdds`: an item is the sum of its users, no network needed. `ShuffledItems`: the order of an item's
users does not matter. `Recent`: it is enough to know who is online. `Blend`: two simple systems together.
Like all scorers they answer with what is visible strictly before each query.

Shapes: U users, I items, H events of the item histories, D dimensions, B queries of a block, N rows of
the asked side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from duality.data.histories import Histories
from duality.embeddings import STORED_EXTRA, packed_item_states, stored_generated, stored_items
from duality.errors import InputError
from duality.evaluation.baselines import LastActive
from duality.evaluation.pools import TIME_MATCHED, pools_for
from duality.evaluation.queries import ITEM_TO_USER, USER_TO_ITEM, Queries, World
from duality.evaluation.ranking import Scorer, rank_pools
from duality.generated import group_of
from duality.metrics import per_query
from duality.workflows.pooling import ItemMeans, Weighed, centred_means, log_odds
from duality.workflows.scorers import States

RECENCY_WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
MICROSECONDS = 1e6


def _check_item_to_user(direction: str, name: str) -> None:
    if direction != ITEM_TO_USER:
        raise InputError(f"{name} answers {ITEM_TO_USER} only: leave it out of {direction}")


class Transposed:
    """The bare inner product <u, e>: the model's score without the user's log-partition."""

    name = "transposed"

    def __init__(self, states: States) -> None:
        self.states = states

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        if direction == USER_TO_ITEM:
            return self.states.users[queries.user[rows]] @ self._bare(self.states.items).T
        items = self._bare(self.states.items_before(queries, rows))
        return self.states.user_scores(items, queries, rows)

    def _bare(self, items: np.ndarray) -> np.ndarray:
        """Stored items float32 [N, D + 3] with the partition left out."""
        items = items.copy()
        items[:, self.states.model.dim] = 0.0
        return items


class MeanOfUsers:
    """The item is the plain mean of its users; popularity, their common direction, stays in it."""

    name = "mean_of_users"

    def __init__(self, states: States) -> None:
        self.states, self.means = states, ItemMeans(states)

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, U]."""
        _check_item_to_user(direction, self.name)
        mean, _ = self.means.of(queries, rows)
        vectors = np.concatenate((mean, np.zeros((len(mean), STORED_EXTRA), np.float32)), axis=1)
        return self.states.user_scores(vectors, queries, rows)


class LogOdds:
    """The item is those trained items that its users were likelier to choose next than people are
    (`pooling.log_odds`); its score is the weighted mean of log p(j' | user)."""

    name = "log_odds"

    def __init__(self, states: States) -> None:
        self.states, self.means, self.pool = states, ItemMeans(states), log_odds(states)

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, U]."""
        _check_item_to_user(direction, self.name)
        items = stored_items(torch.from_numpy(self.pool(*self.means.of(queries, rows))))
        return self.states.user_scores(items, queries, rows)


class WeighedMean:
    """The centred mean of the item's users, weighed as generated vectors are."""

    name = "weighed_mean"

    def __init__(self, states: States) -> None:
        self.states, self.weighed = states, Weighed(states, centred_means(states))

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, U]."""
        _check_item_to_user(direction, self.name)
        items = self.weighed.stored(*self.weighed.means.of(queries, rows))
        return self.states.user_scores(items, queries, rows)


class ShuffledItems:
    """The item encoder on the same users as `ItemEncoderScorer`, in random order.

    Args:
        seed: of the order; two queries of an item have the users that both know in the same order.

    Cost: the item encoder once for each query, over at most `item_history` users.
    """

    name = "shuffled_items"

    def __init__(self, states: States, seed: int = 0) -> None:
        self.states = states
        # By event and not by place: what comes later must not move the order of those before.
        self._key = np.random.default_rng(seed).random(states.dataset.num_events)

    def shuffled(self, queries: Queries, rows: slice) -> Histories:
        """Events that each query's item is made from, in random order: one owner per query."""
        indptr, event = self.states.item_histories
        known = self.states.known_users(queries, rows)
        start = _window_starts(known, self.states.model.config.item_history)
        bounds = np.concatenate(([0], np.cumsum(known - start)))
        first = indptr[queries.item[rows]] + start - bounds[:-1]
        place = np.repeat(first, known - start) + np.arange(bounds[-1])
        owner = np.repeat(np.arange(len(known)), known - start)
        event = event[place]
        return Histories(bounds, event[np.lexsort((self._key[event], owner))])

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, U]."""
        _check_item_to_user(direction, self.name)
        states, histories = self.states, self.shuffled(queries, rows)
        made = packed_item_states(states.model, states.dataset, histories, states.before_events)
        vectors = states.model.empty_item.detach()[: states.model.dim].repeat(histories.num_owners, 1)
        some = torch.from_numpy(np.flatnonzero(histories.lengths))
        vectors[some] = made[torch.from_numpy(histories.indptr[1:])[some] - 1]
        weights = states.made[2][group_of(states.known_users(queries, rows))]
        return states.user_scores(stored_generated(vectors, weights), queries, rows)


def _window_starts(known: np.ndarray, size: int) -> np.ndarray:
    """First user of the window that ends at each prefix, int64 [B], as `overlapping_windows` cuts it."""
    if not size:
        return np.zeros_like(known)
    step = size // 2
    return -(-(known - size).clip(min=0) // step) * step


class Recency:
    """-log(1 + seconds since the user's last visible event strictly before the query); item-to-user.

    Raises:
        InputError: the log has no time.
    """

    name = "recency"

    def __init__(self, world: World) -> None:
        self._last = LastActive(world, ITEM_TO_USER)

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float64 [B, U], -inf for a user without such an event."""
        _check_item_to_user(direction, self.name)
        last = self._last.score(queries, rows, direction)
        assert queries.time is not None
        return -np.log1p((queries.time[rows, None] - last) / MICROSECONDS)


class Recent:
    """`inner` plus `weight` times `Recency`: how far knowing who is online helps."""

    def __init__(self, inner: Scorer, recency: Scorer, weight: float) -> None:
        self.inner, self.recency, self.weight = inner, recency, weight
        self.name = f"{inner.name}+recency"

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float [B, U]."""
        scores = self.inner.score(queries, rows, direction)
        # 0 times the -inf of a user who was never there would be NaN.
        return scores + self.weight * self.recency.score(queries, rows, direction) if self.weight else scores


class Blend:
    """(1 - weight) x `a` + weight x `b`, each standardised over a query's finite scores.

    Standardising makes one weight mean the same for scores on any scale. What either calls -inf stays so.

    Raises:
        ValueError: the weight is not from 0 to 1.
    """

    def __init__(self, a: Scorer, b: Scorer, weight: float) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight {weight} of a blend: give a number from 0 to 1")
        self.a, self.b, self.weight = a, b, weight
        self.name = f"{a.name}+{b.name}"

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float64 [B, N]."""
        parts = [(self.a, 1 - self.weight), (self.b, self.weight)]
        return sum(
            (
                weight * standardised(scorer.score(queries, rows, direction))
                for scorer, weight in parts
                if weight
            ),
            np.zeros(1),
        )


def standardised(scores: np.ndarray) -> np.ndarray:
    """Each row with mean 0 and deviation 1 over its finite values, float64 [B, N]; -inf stays."""
    finite = np.isfinite(scores)
    count = finite.sum(axis=1, keepdims=True).clip(min=1)
    scores = scores.astype(np.float64)
    centred = scores - np.where(finite, scores, 0.0).sum(axis=1, keepdims=True) / count
    deviation = np.sqrt((np.where(finite, centred, 0.0) ** 2).sum(axis=1, keepdims=True) / count)
    return centred / np.where(deviation > 0, deviation, 1.0)


class Shared:
    """A scorer whose newest block is kept, so that several others can be made of it at one price."""

    def __init__(self, inner: Scorer) -> None:
        self.inner, self.name = inner, inner.name
        self._asked: tuple[Queries, slice, str] | None = None
        self._scores = np.zeros((0, 0))

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float [B, N], as `inner` gives it."""
        asked = self._asked
        if asked is None or asked[0] is not queries or asked[1:] != (rows, direction):
            self._scores = self.inner.score(queries, rows, direction)
            self._asked = queries, rows, direction
        return self._scores


def best_of(
    scorers: Sequence[Scorer],
    world_validation: World,
    queries_validation: Queries,
    direction: str,
    *,
    metric: str,
    pool: str,
) -> int:
    """Place of the scorer with the best mean on validation queries; the first of equals.

    Args:
        scorers: made for the validation world; they may share a name.
        metric: e.g. "ndcg@10".
        pool: "all" or "time-matched".

    Raises:
        InputError: there is no query, no such pool for this log and direction, or no such metric.
    """
    if not len(queries_validation):
        raise InputError("nothing to choose by: no validation query is left")
    pools = pools_for(queries_validation, world_validation, direction)
    chosen = [one for one in pools if one.name == pool]
    if not chosen:
        names = " or ".join(one.name for one in pools)
        raise InputError(f"no pool '{pool}' for {direction} on this log: choose {names}")
    ranks, competing = rank_pools(scorers, queries_validation, world_validation, direction, chosen)
    means = [per_query(metric, found[0], competing[0]).mean() for found in ranks]
    return int(np.argmax(means))


def choose_recency(
    inner: Scorer,
    world_validation: World,
    queries_validation: Queries,
    *,
    metric: str = "ndcg@10",
    pool: str = TIME_MATCHED,
    weights: Sequence[float] = RECENCY_WEIGHTS,
) -> float:
    """The weight of `Recent` that validation likes best; arguments as for `best_of`.

    Raises:
        InputError: the log has no time; see also `best_of`.
    """
    shared, recency = Shared(inner), Shared(Recency(world_validation))
    scorers = [Recent(shared, recency, weight) for weight in weights]
    place = best_of(scorers, world_validation, queries_validation, ITEM_TO_USER, metric=metric, pool=pool)
    return weights[place]
