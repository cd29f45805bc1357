"""Who goes to which campaign: as many filled slots as possible, then the largest total value.

Filling comes first because values are log-probabilities and mostly negative: a plain
maximum would leave slots empty. A campaign that prefers an empty slot to a bad user says so
through its eligibility (-inf).

The problem is a transportation problem with a fixed total F of filled slots. Its constraint
rows form two laminar families (campaigns and their total; users), so the matrix is totally
unimodular and the vertex that the simplex returns is a 0/1 assignment: the linear programme
is exact.

Only the best K_c = s_c + floor((S - s_c) / cap) + 1 eligible users of campaign c are pairs of the
programme, S the sum of sizes and cap the smallest capacity of a user that has any. That loses nothing: suppose
c uses a user outside this list. At most s_c - 1 users of the list are already with c, and the other campaigns'
S - s_c slots can bring at most floor((S - s_c) / cap) users to their cap, so some user of the list is free and at
least as good; swap, and repeat. The same counting shows that greedy never looks past the list. (The one user more
than the counting needs makes the prices below tight.)

`bound` is a Lagrangian bound over all users, the pruned pairs included: charge every user's
price and the price of filling, pay each campaign the price of its minimum for every user, and let it take its best s_c
users at these prices.
Any prices give a valid upper bound, so a gap of zero proves the optimum without trusting
either the solver or the pruning.

Beyond LINEAR pairs the same problem is solved as a flow (flow.py), which is faster and gives the same total; where the
pairs that are known are not all that count, or more than plan.EXACT, by prices (prices.py), with a gap that is reported.

Cost:   30,000 pairs 0.3 s, 200,000 pairs 6 s on one core (sizes 10 x 300, 20 x 500).
Shapes: C campaigns, U users, P pairs, at most C * S where the assignment is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.optimize import linprog
from scipy.sparse.csgraph import maximum_flow

from duality.errors import DualityError
from duality.targeting.flow import least_cost, prices_of
from duality.targeting.plan import EXACT
from duality.targeting.prices import Pairs, by_prices

LINEAR = 100_000
AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class Assignment:
    """An assignment and its certificate.

    Attributes:
        pairs: per campaign, int64 places among the pairs, best value first, then lowest user.
        objective: total value of the assignment.
        bound: no assignment that fills as many slots has a larger total value.
        gap: (bound - objective) / max(1, |objective|); 0 up to rounding proves the optimum.
        prices: float64 [C]: users are worth this to a campaign at least, after what others would pay for them; inf
            where it has nobody.
        method: "linear programme", "flow" or "prices".
    """

    pairs: list[np.ndarray]
    objective: float
    bound: float
    gap: float
    prices: np.ndarray
    method: str


def assign(
    pairs: Pairs,
    sizes: np.ndarray,
    room: np.ndarray,
    least: Sequence[int] | np.ndarray | None = None,
    *,
    whole: bool = True,
) -> Assignment:
    """Fill as many slots as possible, with the largest total value among all ways to do so.

    Args:
        pairs: who may be assigned.
        sizes: int64 [C], slots of each campaign.
        room: int64 [U], campaigns that a user may be in.
        least: users that each campaign must have, as far as that is possible for all together: if it is not,
            nobody has a minimum. Minima never cost filled slots: whatever part of the slots can be filled is
            part of a largest one (the fillings of a transportation problem are a polymatroid).
        whole: whether `pairs` are all that an exact assignment needs (`plan.needed`); if not, or if they are more than
            EXACT, the assignment is by prices.

    Raises:
        DualityError: the solver gave up.
        MissingExtraError: more than LINEAR pairs, and the extra `targeting` is not installed.
    """
    sizes, wanted = np.asarray(sizes, np.int64), np.asarray(0 if least is None else least, np.int64)
    wanted = np.minimum(sizes, wanted)
    if not whole or len(pairs.value) > EXACT:
        chosen, of_slots, bound = by_prices(pairs, sizes, room, wanted)
        return _certified(pairs, chosen, bound, of_slots, "prices")
    # Solvers add and subtract values, and what single precision loses would be in the gap.
    pairs = replace(pairs, value=pairs.value.astype(np.float64))
    shape = (len(sizes), pairs.num_users)
    filled = _most_filled(pairs, shape, sizes, room) if len(pairs.value) else 0
    if filled == 0:
        nobody, free = np.zeros(len(pairs.value), bool), np.full(len(sizes), np.inf)
        return _certified(pairs, nobody, 0.0, free, "linear programme")
    minima = _possible(pairs, shape, wanted, room)
    if len(pairs.value) > LINEAR:
        method = "flow"
        chosen = least_cost(pairs, shape, sizes, room, filled, minima)
        prices, filling, favours = prices_of(pairs, chosen, shape, sizes, room, minima)
    else:
        method = "linear programme"
        chosen, prices, filling, favours = _solve(pairs, shape, sizes, room, filled, minima)
    gain = _gain(pairs, sizes, prices, filling - favours)
    bound = gain + float(room @ prices) + filled * filling - float(minima @ favours)
    of_slots = np.full(len(sizes), np.inf)
    np.minimum.at(of_slots, pairs.campaign[chosen], (pairs.value - prices[pairs.user])[chosen])
    return _certified(pairs, chosen, bound, of_slots, method)


def _certified(pairs: Pairs, chosen: np.ndarray, bound: float, prices: np.ndarray, method: str) -> Assignment:
    offsets = pairs.offsets
    places = [a + np.flatnonzero(chosen[a:b]) for a, b in pairwise(offsets)]
    objective = total_value(pairs, places)
    return Assignment(
        places, objective, bound, (bound - objective) / max(1.0, abs(objective)), prices, method
    )


def greedy(pairs: Pairs, sizes: np.ndarray, room: np.ndarray) -> list[np.ndarray]:
    """Take pairs from the best value down while there is room: for comparison.

    Arguments as `assign`; returns places among the pairs per campaign, best first.
    """
    order = np.lexsort((pairs.user, pairs.campaign, -pairs.value))
    slots, left = np.array(sizes, np.int64), np.array(room, np.int64)
    taken: list[int] = []
    for start in range(0, len(order), AT_ONCE):
        # Most of those for whom there is no room any more are passed over together.
        some = order[start : start + AT_ONCE]
        some = some[(slots[pairs.campaign[some]] > 0) & (left[pairs.user[some]] > 0)]
        for place, campaign, user in zip(
            some.tolist(), pairs.campaign[some].tolist(), pairs.user[some].tolist(), strict=True
        ):
            if slots[campaign] and left[user]:
                taken.append(place)
                slots[campaign] -= 1
                left[user] -= 1
        if not slots.any():
            break
    places = np.sort(np.array(taken, np.int64))
    return np.split(places, np.searchsorted(places, pairs.offsets[1:-1]))


def total_value(pairs: Pairs, places: Sequence[np.ndarray]) -> float:
    """Sum of values over the pairs of each campaign."""
    return float(sum(pairs.value[mine].sum(dtype=np.float64) for mine in places))


def _most_filled(pairs: Pairs, shape: tuple[int, int], sizes: np.ndarray, room: np.ndarray) -> int:
    """Largest number of slots that can be filled at once: a maximum flow."""
    num_campaigns, num_users = shape
    source, sink = num_campaigns + num_users, num_campaigns + num_users + 1
    campaigns, users = np.arange(num_campaigns), np.unique(pairs.user) + num_campaigns
    tail = np.concatenate([np.full(num_campaigns, source), pairs.campaign, users])
    head = np.concatenate([campaigns, pairs.user + num_campaigns, np.full(len(users), sink)])
    capacity = np.concatenate([sizes, np.ones(len(pairs.user)), room[users - num_campaigns]])
    graph = sparse.csr_matrix((capacity.astype(np.int32), (tail, head)), shape=(sink + 1, sink + 1))
    return int(maximum_flow(graph, source, sink).flow_value)


def _possible(pairs: Pairs, shape: tuple[int, int], least: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Minima int64 [C] that all campaigns can have together, else none."""
    able = not least.any() or _most_filled(pairs, shape, least, room) == least.sum()
    return least if able else np.zeros_like(least)


def _solve(
    pairs: Pairs, shape: tuple[int, int], sizes: np.ndarray, room: np.ndarray, filled: int, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Solve the linear programme: chosen pairs bool [P], user prices [U], price of filling, prices of minima [C]."""
    num_campaigns, num_users = shape
    crowded = np.flatnonzero(np.bincount(pairs.user, minlength=num_users) > room)
    row_of_user = np.full(num_users, -1)
    row_of_user[crowded] = num_campaigns + np.arange(len(crowded))
    user_row = row_of_user[pairs.user]
    bound_by_user = user_row >= 0
    number = np.arange(len(pairs.value))
    needing = np.flatnonzero(least)
    row_of_need = np.full(num_campaigns, -1)
    row_of_need[needing] = num_campaigns + len(crowded) + np.arange(len(needing))
    needed = row_of_need[pairs.campaign] >= 0
    rows = np.concatenate([pairs.campaign, user_row[bound_by_user], row_of_need[pairs.campaign[needed]]])
    columns = np.concatenate([number, number[bound_by_user], number[needed]])
    entries = np.where(np.arange(len(rows)) < len(rows) - needed.sum(), 1.0, -1.0)
    limits = np.concatenate([sizes, room[crowded], -least[needing]])
    result = linprog(
        -pairs.value,
        A_ub=sparse.csr_matrix((entries, (rows, columns)), shape=(len(limits), len(number))),
        b_ub=limits,
        A_eq=sparse.csr_matrix(np.ones((1, len(number)))),
        b_eq=[filled],
        bounds=(0, 1),
        method="highs-ds",
    )
    if result.x is None or np.abs(result.x - np.round(result.x)).max() > 1e-6:
        raise DualityError(f"the assignment could not be solved: {result.message}")
    prices = np.zeros(num_users)
    # Clipped because the bound needs prices >= 0 and the solver may miss zero by a rounding error.
    marginals = np.maximum(-result.ineqlin.marginals, 0.0)
    prices[crowded] = marginals[num_campaigns : num_campaigns + len(crowded)]
    favours = np.zeros(num_campaigns)
    favours[needing] = marginals[num_campaigns + len(crowded) :]
    return result.x > 0.5, prices, float(-result.eqlin.marginals[0]), favours


def _gain(pairs: Pairs, sizes: np.ndarray, prices: np.ndarray, charged: np.ndarray) -> float:
    """What the campaigns gain in total when each takes its best users at these prices.

    Args:
        prices: float64 [U], of users.
        charged: float64 [C], what every slot costs a campaign besides.
    """
    offsets, gain = pairs.offsets, 0.0
    for row, (first, last, size) in enumerate(zip(offsets, offsets[1:], sizes, strict=False)):
        surplus = pairs.value[first:last] - prices[pairs.user[first:last]] - charged[row]
        # Users who are no pair here are worth no more than the cut, and may be free.
        surplus = np.maximum(surplus, max(pairs.cuts[row] - charged[row], 0.0))
        gain += float(np.partition(surplus, -size)[-size:].sum() if size < len(surplus) else surplus.sum())
    return gain
