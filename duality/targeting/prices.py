"""An assignment of millions of pairs by the prices of campaigns, with a bound that says how good it is.

A price per campaign is what one of its slots is worth. At given prices a user takes the campaigns with the largest value
above price, as many as there is room for; what users gain so, plus what all slots cost, bounds every assignment
that fills the slots (the Lagrangian dual of the transportation problem, which here has no gap). Each round moves every
price to where, the others being as they are, as many users would come as the campaign has slots. That stands still where
campaigns want the same users at the same price, alike in what they ask for; then prices go up with demand and down
without (a subgradient, Polyak's step). Slots are given at the best prices found, and those left over go to the best
users who still have room.

Pairs that were left out of the programme are worth at most a campaign's `cut`. While a price is not below it they gain
nothing, so the bound holds for them as well; prices are kept there.

Cost:   a round sorts each user's pairs: about 1 s per 10 million pairs, one core; some dozens of rounds. 40 bytes a pair.
Shapes: C campaigns, U users, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from duality.runtime import progress

ROUNDS = 80
AT_ONCE = 1 << 20  # pairs whose surplus is held in double precision
ENOUGH = 1e-6  # share of the bound that PATIENCE rounds have to gain, or prices stand
PATIENCE = 6
NEAR = 1e-4  # share of the bound: what is closer to it is good enough


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of campaign and user that may be assigned, ordered by campaign, best value first.

    Attributes:
        campaign, user: int32 [P].
        value: float32 [P].
        cuts: float64 [C]: no pair that is missing here is worth more; -inf where none is missing.
        num_users: U.
    """

    campaign: np.ndarray
    user: np.ndarray
    value: np.ndarray
    cuts: np.ndarray
    num_users: int

    @property
    def offsets(self) -> np.ndarray:
        """int64 [C + 1]: where the campaigns' pairs lie."""
        counts = np.bincount(self.campaign, minlength=len(self.cuts))
        return np.concatenate(([0], np.cumsum(counts)))


class _ByUser:
    """The pairs of every user side by side: users with as many pairs make arrays."""

    def __init__(self, pairs: Pairs, room: np.ndarray) -> None:
        order = np.argsort(pairs.user, kind="stable").astype(np.int32)
        self._users, self._first, degree = np.unique(pairs.user[order], return_index=True, return_counts=True)
        self._order, self._room = order, room
        self._alike = [(int(number), np.flatnonzero(degree == number)) for number in np.unique(degree)]

    def groups(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs int32 [n, d] of n users who have d each, and the room int64 [n] of these users."""
        for number, mine in self._alike:
            for start in range(0, len(mine), step := max(1, AT_ONCE // number)):
                some = mine[start : start + step]
                places = self._first[some][:, None] + np.arange(number)
                yield self._order[places], self._room[self._users[some]].astype(np.int64)


def by_prices(
    pairs: Pairs, sizes: np.ndarray, room: np.ndarray, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Which pairs are chosen, bool [P], the campaigns' prices float64 [C], and a bound on the total of any choice that
    fills as many slots.

    Args:
        sizes: int64 [C], slots.
        room: int64 [U], campaigns that a user may be in.
        least: int64 [C], users that campaigns need: they come first where slots cannot all be filled.
    """
    # Where pairs are missing a campaign may have more users than are known here, and the bound has to say so.
    sizes = np.where(pairs.cuts > -np.inf, sizes, np.minimum(sizes, np.diff(pairs.offsets)))
    search = _Search(pairs, _ByUser(pairs, room), sizes)
    search.settle()
    chosen = search.choose(room, least)
    if search.best - _total(pairs, chosen) > NEAR * abs(search.best):
        search.follow(_total(pairs, chosen))
        search.settle()
        again = search.choose(room, least)
        if (again.sum(), _total(pairs, again)) > (chosen.sum(), _total(pairs, chosen)):
            chosen = again
    return chosen, search.prices, _bound(search.prices, sizes, search.gained, int(chosen.sum()))


def _total(pairs: Pairs, chosen: np.ndarray) -> float:
    return float(pairs.value[chosen].sum(dtype=np.float64))


class _Search:
    """Prices with the lowest bound so far.

    Attributes:
        prices: float64 [C].
        best: the bound at these.
        gained: what users gain at these.
    """

    def __init__(self, pairs: Pairs, users: _ByUser, sizes: np.ndarray) -> None:
        self.pairs, self.users, self.sizes = pairs, users, sizes
        self.prices, self.best, self.gained = self._where(pairs.value), np.inf, 0.0

    def settle(self) -> None:
        """Move each price to where the others leave it."""
        prices, waited = self.prices, 0
        with progress(ROUNDS, "pricing", unit="rounds") as bar:
            for _ in range(ROUNDS):
                before = self.best
                worth, _ = self._ask(prices)
                waited = 0 if before - self.best > ENOUGH * abs(self.best) else waited + 1
                if waited > PATIENCE:
                    break
                prices = np.maximum(self._where(worth), self.pairs.cuts)
                bar.advance()

    def follow(self, reached: float) -> None:
        """Move all prices together with demand.

        Args:
            reached: the total of some assignment: how low the bound can get at most.
        """
        prices, bound = self.prices, self.best
        with progress(ROUNDS, "pricing", unit="rounds") as bar:
            for _ in range(ROUNDS):
                _, load = self._ask(prices)
                more = np.where((load < self.sizes) & (prices <= self.pairs.cuts), 0.0, load - self.sizes)
                if not more.any():
                    break
                bound = float(self.sizes @ prices) + self._gain
                prices = np.maximum(prices + max(bound - reached, 0) / (more @ more) * more, self.pairs.cuts)
                bar.advance()

    def choose(self, room: np.ndarray, least: np.ndarray) -> np.ndarray:
        """Slots given at the best prices, bool [P]."""
        chosen = _taken(self.pairs, self.users, self.prices, self.sizes)
        _fill(self.pairs, chosen, self.prices, self.sizes, room, least)
        return chosen

    def _ask(self, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Up to which price each pair would be taken, float32 [P], and the users who come, float64 [C]; remembers the best."""
        self._gain, worth, load = _reply(self.pairs, self.users, prices)
        bound = float(self.sizes @ prices) + self._gain
        if bound < self.best:
            self.best, self.prices, self.gained = bound, prices, self._gain
        return worth, load

    def _where(self, worth: np.ndarray) -> np.ndarray:
        """Prices float64 [C] at which as many users come as there are slots."""
        return np.array([_nth(worth[a:b], n) for (a, b), n in zip(pairwise(self.pairs.offsets), self.sizes)])


def _nth(values: np.ndarray, number: int) -> float:
    """The `number`-th largest value, or the lowest of fewer; of none, 0."""
    number = min(number, len(values))
    return float(np.partition(values, -number)[-number]) if number else 0.0


def _reply(pairs: Pairs, users: _ByUser, prices: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """What users gain at some prices, the price float32 [P] up to which each pair would be taken, and how many users
    come, float64 [C]; one who does not mind which campaign it is comes to each of these in part."""
    gain, worth, load = 0.0, np.empty_like(pairs.value), np.zeros(len(prices))
    for pair, room in users.groups():
        mine = _surplus(pairs, prices, pair)
        best = -np.sort(-mine, axis=1)
        gain += float(np.maximum(best, 0)[np.arange(best.shape[1]) < room[:, None]].sum())
        worth[pair] = pairs.value[pair] - _instead(mine, best, room)
        lowest = np.take_along_axis(best, np.minimum(room, best.shape[1])[:, None] - 1, 1).clip(min=0)
        above, alike = mine > lowest, mine == lowest
        share = (room - above.sum(1)).clip(min=0) / np.maximum(alike.sum(1), 1)
        come = above + alike * np.minimum(share, 1)[:, None]
        load += np.bincount(pairs.campaign[pair].ravel(), come.ravel(), minlength=len(load))
    return gain, worth, load


def _surplus(pairs: Pairs, prices: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """What pairs are worth above the price, float64 of the shape of `pair`."""
    found: np.ndarray = pairs.value[pair] - prices[pairs.campaign[pair]]
    return found


def _instead(mine: np.ndarray, best: np.ndarray, room: np.ndarray) -> np.ndarray:
    """What users would gain in place of each of their pairs, float64 [n, d], from surpluses and the same sorted."""
    padded = np.pad(np.maximum(best, 0), ((0, 0), (1, 1)))
    padded[:, 0] = np.inf
    last = np.minimum(room, best.shape[1])[:, None]
    lowest, following = (np.take_along_axis(padded, last + step, 1) for step in (0, 1))
    full = room[:, None] <= best.shape[1]
    return np.where(mine >= np.where(full, lowest, -np.inf), np.where(full, following, 0.0), lowest)


def _taken(pairs: Pairs, users: _ByUser, prices: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """What users take at these prices, bool [P]; of a campaign with too many, those who would pay most."""
    taken, margin = np.zeros(len(pairs.value), bool), np.empty_like(pairs.value)
    for pair, room in users.groups():
        mine = _surplus(pairs, prices, pair)
        order = np.argsort(-mine, axis=1, kind="stable")
        place = np.argsort(order, axis=1, kind="stable")
        taken[pair] = (place < room[:, None]) & (mine >= 0)
        margin[pair] = mine - _instead(mine, np.take_along_axis(mine, order, 1), room)
    for (first, last), size in zip(pairwise(pairs.offsets), sizes):
        mine = first + np.flatnonzero(taken[first:last])
        taken[mine[np.argsort(-margin[mine], kind="stable")[size:]]] = False
    return taken


def _fill(
    pairs: Pairs,
    chosen: np.ndarray,
    prices: np.ndarray,
    sizes: np.ndarray,
    room: np.ndarray,
    least: np.ndarray,
) -> None:
    """Give open slots to the best users with room, minima first, until nobody more can be had; changes `chosen`."""
    for wanted in (np.minimum(least, sizes), sizes):
        while True:
            slots = wanted - np.bincount(pairs.campaign[chosen], minlength=len(sizes))
            left = room - np.bincount(pairs.user[chosen], minlength=len(room))
            may = np.flatnonzero(~chosen & (slots > 0)[pairs.campaign] & (left > 0)[pairs.user])
            asked = may[_rank(pairs.campaign[may]) < slots[pairs.campaign[may]]]
            if not len(asked):
                break
            gain = _surplus(pairs, prices, asked)
            asked = asked[np.lexsort((asked, -gain, pairs.user[asked]))]
            chosen[asked[_rank(pairs.user[asked]) < left[pairs.user[asked]]]] = True


def _rank(groups: np.ndarray) -> np.ndarray:
    """Place of each entry within its run of equal ones."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))


def _bound(prices: np.ndarray, sizes: np.ndarray, gained: float, filled: int) -> float:
    """No choice that fills so many slots is worth more: slots cost their prices, all the same one at least."""
    order = np.argsort(-prices, kind="stable")
    enough = np.flatnonzero(np.cumsum(sizes[order]) >= filled)
    least = prices[order[enough[0]]] if len(enough) else 0.0
    return float(sizes @ np.maximum(prices - least, 0)) + filled * float(least) + gained
