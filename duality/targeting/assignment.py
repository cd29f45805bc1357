"""Who goes to which campaign: as many filled slots as possible, then the largest total value.

Filling comes first because values are log-probabilities and mostly negative: a plain
maximum would leave slots empty. A campaign that prefers an empty slot to a bad user says so
through its eligibility (-inf).

The problem is a transportation problem with a fixed total F of filled slots. Its constraint
rows form two laminar families (campaigns and their total; users), so the matrix is totally
unimodular and the vertex that the simplex returns is a 0/1 assignment: the linear programme
is exact.

Only the best K_c = s_c + floor((S - s_c) / cap) + 1 eligible users of campaign c are edges of the
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

Beyond LINEAR edges the same problem is solved as a flow (flow.py), which is faster and gives the same total.

Cost:   30,000 edges 0.3 s, 200,000 edges 6 s on one core (sizes 10 x 300, 20 x 500).
Shapes: C campaigns, U users, edges = sum of K_c at most C * S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import linprog
from scipy.sparse.csgraph import maximum_flow

from duality.errors import DualityError
from duality.targeting.flow import least_cost, prices_of

LINEAR = 100_000


@dataclass(frozen=True)
class Assignment:
    """An optimal assignment and its certificate.

    Attributes:
        rows: per campaign, int64 user rows, best value first, then lowest row.
        objective: total value of the assignment.
        bound: no assignment that fills as many slots has a larger total value.
        gap: (bound - objective) / max(1, |objective|); 0 up to rounding proves the optimum.
        prices: float64 [U]; what one more campaign for this user would add to the total.
    """

    rows: list[np.ndarray]
    objective: float
    bound: float
    gap: float
    prices: np.ndarray

    @property
    def filled(self) -> list[int]:
        """Users per campaign; less than asked where no eligible user was left."""
        return [len(rows) for rows in self.rows]


@dataclass(frozen=True)
class Edges:
    """Eligible (campaign, user) pairs worth looking at: int64, int64, float64, all [edges]."""

    campaign: np.ndarray
    user: np.ndarray
    value: np.ndarray


Cap = int | np.ndarray  # campaigns per user: the same for all, or int64 [U]


def assign(
    values: np.ndarray, sizes: Sequence[int], cap: Cap = 1, least: Sequence[int] | None = None
) -> Assignment:
    """Fill as many slots as possible, with the largest total value among all ways to do so.

    Args:
        values: float64 [C, U]; -inf where the user is not eligible.
        sizes: slots of each campaign, at least 1.
        cap: campaigns per user at most, at least 1; or of each user, 0 for nobody.
        least: users that each campaign must have, as far as that is possible for all together: if it is not,
            nobody has a minimum. Minima never cost filled slots: whatever part of the slots can be filled is
            part of a largest one (the fillings of a transportation problem are a polymatroid).

    Raises:
        ValueError: shapes differ, a size or the cap is below 1, or a value is NaN or +inf.
        DualityError: the solver gave up.
        MissingExtraError: more than LINEAR edges, and the extra `targeting` is not installed.
    """
    values, slots, room = _checked(values, sizes, cap)
    edges = candidate_edges(values, slots, room)
    filled = _most_filled(edges, values.shape, slots, room)
    if filled == 0:
        empty = [np.empty(0, dtype=np.int64) for _ in slots]
        return Assignment(empty, 0.0, 0.0, 0.0, np.zeros(values.shape[1]))
    minima = _possible(edges, values.shape, np.minimum(slots, 0 if least is None else np.array(least)), room)
    if len(edges.value) > LINEAR:
        chosen = least_cost(edges, values.shape, slots, room, filled, minima)
        prices, filling, favours = prices_of(edges, chosen, values.shape, slots, room, minima)
    else:
        chosen, prices, filling, favours = _solve(edges, values.shape, slots, room, filled, minima)
    rows = _rows_by_campaign(edges, chosen, len(slots))
    objective = total_value(values, rows)
    gain = _bound_at(values + favours[:, None], slots, prices, filling)
    bound = gain + float(room @ prices) + filled * filling - float(minima @ favours)
    return Assignment(rows, objective, bound, (bound - objective) / max(1.0, abs(objective)), prices)


def greedy(values: np.ndarray, sizes: Sequence[int], cap: Cap = 1) -> list[np.ndarray]:
    """Take pairs from the best value down while there is room: for comparison.

    Arguments and errors as `assign`; returns user rows per campaign, best first.
    """
    values, slots, room = _checked(values, sizes, cap)
    edges = candidate_edges(values, slots, room)
    order = np.lexsort((edges.user, edges.campaign, -edges.value))
    open_slots, left = slots.tolist(), room.tolist()
    rows: list[list[int]] = [[] for _ in open_slots]
    for campaign, user in zip(edges.campaign[order].tolist(), edges.user[order].tolist()):
        if open_slots[campaign] and left[user]:
            rows[campaign].append(user)
            open_slots[campaign] -= 1
            left[user] -= 1
    return [np.array(users, dtype=np.int64) for users in rows]


def total_value(values: np.ndarray, rows: Sequence[np.ndarray]) -> float:
    """Sum of values [C, U] over the users of each campaign."""
    return float(sum(values[campaign, users].sum() for campaign, users in enumerate(rows)))


def candidate_edges(values: np.ndarray, sizes: np.ndarray, room: np.ndarray) -> Edges:
    """The best K_c eligible users of each campaign (see the module for K_c and its proof); `room` int64 [U]."""
    least = int(room[room > 0].min(initial=1))
    keep = np.minimum(sizes + (sizes.sum() - sizes) // least + 1, values.shape[1])
    campaign, user = [], []
    for c, k in enumerate(keep):
        best = np.argsort(-values[c], kind="stable")[:k]
        best = best[np.isfinite(values[c, best])]
        campaign.append(np.full(len(best), c))
        user.append(best)
    campaigns, users = np.concatenate(campaign), np.concatenate(user)
    return Edges(campaigns, users, values[campaigns, users])


def _checked(values: np.ndarray, sizes: Sequence[int], cap: Cap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values with -inf for users without room, sizes int64 [C], room int64 [U]."""
    values, slots = np.asarray(values, dtype=np.float64), np.asarray(sizes, dtype=np.int64)
    if values.ndim != 2 or slots.shape != values.shape[:1] or len(slots) == 0:
        raise ValueError("values must be [C, U] with one size per campaign")
    if slots.min() < 1 or np.min(cap, initial=1) < (0 if np.ndim(cap) else 1):
        raise ValueError("sizes and cap must be at least 1")
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("values must be finite, or -inf for a user who is not eligible")
    room = np.broadcast_to(np.asarray(cap, dtype=np.int64), values.shape[1:])
    return (np.where(room > 0, values, -np.inf) if (room < 1).any() else values), slots, room


def _most_filled(edges: Edges, shape: tuple[int, int], sizes: np.ndarray, room: np.ndarray) -> int:
    """Largest number of slots that can be filled at once: a maximum flow."""
    num_campaigns, num_users = shape
    source, sink = num_campaigns + num_users, num_campaigns + num_users + 1
    campaigns, users = np.arange(num_campaigns), np.unique(edges.user) + num_campaigns
    tail = np.concatenate([np.full(num_campaigns, source), edges.campaign, users])
    head = np.concatenate([campaigns, edges.user + num_campaigns, np.full(len(users), sink)])
    capacity = np.concatenate([sizes, np.ones(len(edges.user)), room[users - num_campaigns]])
    graph = sparse.csr_matrix((capacity.astype(np.int32), (tail, head)), shape=(sink + 1, sink + 1))
    return int(maximum_flow(graph, source, sink).flow_value)


def _possible(edges: Edges, shape: tuple[int, int], least: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Minima int64 [C] that all campaigns can have together, else none."""
    able = not least.any() or _most_filled(edges, shape, least, room) == least.sum()
    return least if able else np.zeros_like(least)


def _solve(
    edges: Edges, shape: tuple[int, int], sizes: np.ndarray, room: np.ndarray, filled: int, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Solve the linear programme: chosen edges bool [edges], user prices [U], price of filling, prices of minima [C]."""
    num_campaigns, num_users = shape
    crowded = np.flatnonzero(np.bincount(edges.user, minlength=num_users) > room)
    row_of_user = np.full(num_users, -1)
    row_of_user[crowded] = num_campaigns + np.arange(len(crowded))
    user_row = row_of_user[edges.user]
    bound_by_user = user_row >= 0
    number = np.arange(len(edges.value))
    needing = np.flatnonzero(least)
    row_of_need = np.full(num_campaigns, -1)
    row_of_need[needing] = num_campaigns + len(crowded) + np.arange(len(needing))
    needed = row_of_need[edges.campaign] >= 0
    rows = np.concatenate([edges.campaign, user_row[bound_by_user], row_of_need[edges.campaign[needed]]])
    columns = np.concatenate([number, number[bound_by_user], number[needed]])
    entries = np.where(np.arange(len(rows)) < len(rows) - needed.sum(), 1.0, -1.0)
    limits = np.concatenate([sizes, room[crowded], -least[needing]])
    result = linprog(
        -edges.value,
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


def _bound_at(values: np.ndarray, sizes: np.ndarray, prices: np.ndarray, filling: float) -> float:
    """What the campaigns gain in total when each takes its best users at these prices."""
    gain = 0.0
    for row, size in zip(values, sizes):
        surplus = np.maximum(row - prices - filling, 0.0)
        best = np.partition(surplus, -size)[-size:] if size < len(surplus) else surplus
        gain += float(best.sum())
    return gain


def _rows_by_campaign(edges: Edges, chosen: np.ndarray, num_campaigns: int) -> list[np.ndarray]:
    campaign, user, value = edges.campaign[chosen], edges.user[chosen], edges.value[chosen]
    order = np.lexsort((user, -value, campaign))
    ends = np.cumsum(np.bincount(campaign, minlength=num_campaigns))[:-1]
    return np.split(user[order], ends)
