"""Lists with a floor on what each provider gets and a ceiling on what each item gets.

Choose candidates for the slots of each query so that the total value is largest, while every
provider g holds at least floor[g] slots of all lists together and every item i at most
ceiling[i]. Mirrored (queries are items, candidates are users) the ceiling caps how often a
user is targeted.

The constraints are two laminar families (a query's slots and all slots; an item's slots inside
its provider's slots), so the matrix is totally unimodular: the vertex that the simplex
returns is 0/1 and the linear programme is an exact minimum-cost flow.

Small problems are solved whole. At size, prices decide most pairs: a price per item for its
ceiling and a bonus per provider for its floor make every query's best k obvious except near
its threshold. Only pairs near their threshold go to the exact solver; `bound` is the
Lagrangian bound over *all* candidates, so `gap` says what the shortcut can have cost at most,
without trusting it.

When not everything can hold, slots are filled first and floors are missed by as little as
possible in total, then the value is maximised: `short` says which floors and by how much,
`unfilled` how many slots. Ceilings always hold.

Shapes: P candidate pairs, Q queries, I items, G providers.
Sources: Patro et al., "FairRec" (WWW 2020): minimum exposure guarantees; Bertsekas, "Nonlinear
Programming", section 6.3: the bound and the subgradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from duality.errors import DualityError
from duality.retrieval.balancing_problem import Prices, Problem, bound_at, ranked, reachable

EXACT_PAIRS = 30_000
ROUNDS = 60  # of price updates


@dataclass(frozen=True, eq=False)
class Balanced:
    """A choice and its certificate.

    Attributes:
        chosen: bool [P].
        value: total value of the chosen pairs.
        bound: no choice that fills as many slots and serves the floors as well has more value.
        gap: (bound - value) / |value|.
        short: int64 [G], slots missing to each provider's floor; all zero when every floor holds.
        unfilled: slots that no candidate could take.
        exact: solved whole, without the shortcut.
    """

    chosen: np.ndarray
    value: float
    bound: float
    gap: float
    short: np.ndarray
    unfilled: int
    exact: bool


def balance(problem: Problem, *, exact_pairs: int = EXACT_PAIRS, rounds: int = ROUNDS) -> Balanced:
    """The most valuable lists that respect floors and ceilings.

    Args:
        problem: candidates and constraints.
        exact_pairs: problems up to this size are solved whole; of larger ones so many pairs go to
            the exact solver first, and four times as many whenever that leaves no way to meet
            the constraints.
        rounds: price updates of larger problems.

    Raises:
        DualityError: the solver gave up.
    """
    if not len(problem.query):
        none = np.zeros(0, dtype=bool)
        return Balanced(none, 0.0, 0.0, 0.0, problem.floor.copy(), int(problem.slots.sum()), True)
    goal, size = reachable(problem), exact_pairs
    if goal.total is None and size < len(problem.query):
        prices = _prices(goal, rounds)
        while size < len(problem.query):
            if (found := _near_threshold(goal, prices, size)) is not None:
                chosen, exact_prices = found
                bound = min(bound_at(goal, prices), bound_at(goal, exact_prices))
                return _result(problem, chosen, bound, exact=False)
            size *= 4
    chosen, prices = solve(goal)
    return _result(problem, chosen, bound_at(goal, prices), exact=True)


def _result(problem: Problem, chosen: np.ndarray, bound: float, *, exact: bool) -> Balanced:
    value = float(problem.value[chosen].sum())
    return Balanced(
        chosen,
        value,
        bound,
        (bound - value) / max(abs(value), 1e-12),
        np.maximum(problem.floor - problem.held(chosen), 0),
        int(problem.slots.sum() - chosen.sum()),
        exact,
    )


def solve(problem: Problem) -> tuple[np.ndarray, Prices]:
    """The exact optimum of a problem in which everything can hold.

    Returns:
        bool [P], the chosen pairs, and the prices that prove it.

    Raises:
        DualityError: the solver gave up, or the constraints cannot hold (see `reachable`).
    """
    query, item, group, bound_items = _incidence(problem)
    upper, most = [item, -group], [problem.ceiling[bound_items], -problem.floor]
    equal, exactly = query, problem.slots.astype(float)
    if problem.total is not None:
        upper, most = [*upper, query], [*most, problem.slots]
        equal, exactly = sparse.csr_matrix(np.ones((1, len(problem.query)))), np.array([float(problem.total)])
    answer = linprog(
        -problem.value,
        A_ub=sparse.vstack(upper, format="csr"),
        b_ub=np.concatenate(most).astype(float),
        A_eq=equal,
        b_eq=exactly,
        bounds=(0, 1),
        method="highs-ds",
    )
    if answer.status != 0:
        raise DualityError(f"the balancing programme was not solved: {answer.message}")
    return answer.x > 0.5, _marginals(problem, answer, bound_items)


def _incidence(problem: Problem) -> tuple[Any, Any, Any, np.ndarray]:
    """Pairs against queries, items that their ceiling can bind, and providers; then those items."""
    pairs = np.arange(len(problem.query))
    bound_items = np.flatnonzero(problem.listed(pairs) > problem.ceiling)
    number = np.full(len(problem.ceiling), -1)
    number[bound_items] = np.arange(len(bound_items))

    def incidence(rows: np.ndarray, count: int) -> sparse.csr_matrix:
        kept = rows >= 0
        return sparse.csr_matrix((np.ones(kept.sum()), (rows[kept], pairs[kept])), shape=(count, len(pairs)))

    return (
        incidence(problem.query, len(problem.slots)),
        incidence(number[problem.item], len(bound_items)),
        incidence(problem.group, len(problem.floor)),
        bound_items,
    )


def _marginals(problem: Problem, answer: Any, bound_items: np.ndarray) -> Prices:
    values, held = np.maximum(-answer.ineqlin.marginals, 0.0), len(bound_items)
    ceiling = np.zeros(len(problem.ceiling))
    ceiling[bound_items] = values[:held]
    slot = 0.0 if problem.total is None else float(answer.eqlin.marginals[0])
    return Prices(values[held : held + len(problem.floor)], ceiling, slot)


def _prices(problem: Problem, rounds: int) -> Prices:
    """Prices with the lowest Lagrangian bound met on a subgradient path.

    Steps are relative to each constraint's size, so that a large provider and a small one move
    alike, and fall as 1 / sqrt(round).
    """
    prices = best = Prices(np.zeros(len(problem.floor)), np.zeros(len(problem.ceiling)))
    lowest, first = np.inf, _first_step(problem)
    for number in range(1, rounds + 1):
        adjusted = prices.adjust(problem)
        order, place = ranked(problem, adjusted)
        top = order[place < problem.slots[problem.query[order]]]
        bound = adjusted[top].sum() + prices.paid_back(problem)
        if bound < lowest:
            lowest, best = bound, prices
        held, listed = problem.held(top), problem.listed(top)
        if number == 1 and (held >= problem.floor).all() and (listed <= problem.ceiling).all():
            return prices  # the plain lists hold everything already
        step = first / np.sqrt(number)
        floor = prices.floor + step * _relative(problem.floor, held)
        ceiling = prices.ceiling + step * _relative(listed, problem.ceiling)
        prices = Prices(np.maximum(floor, 0.0), np.maximum(ceiling, 0.0))
    return best


def _relative(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return (above - below) / np.maximum(np.maximum(above, below), 1)


def _first_step(problem: Problem) -> float:
    """Half of what typically lies between a query's best value and its last listed one."""
    order, place = ranked(problem, problem.value)
    wanted = problem.slots[problem.query[order]]
    best, last = problem.value[order[place == 0]], problem.value[order[place == wanted - 1]]
    return max(float(best.mean() - last.mean()) / 2, 1e-9) if len(last) else 1.0


def _near_threshold(problem: Problem, prices: Prices, size: int) -> tuple[np.ndarray, Prices] | None:
    """Decide pairs far from their query's threshold by price, the `size` nearest ones exactly.

    Returns:
        bool [P], chosen, and the exact prices of the open part; None when the pairs left open cannot
        meet the constraints.
    """
    adjusted = prices.adjust(problem)
    inside, margin = _margins(problem, adjusted)
    nearest = np.zeros(len(margin), dtype=bool)
    nearest[np.argpartition(margin, size - 1)[:size]] = True
    open_pairs = np.flatnonzero(nearest | _for_floors(problem, adjusted, inside, margin))
    inside[open_pairs] = False
    rest = problem.part(open_pairs, np.flatnonzero(inside))
    if rest is None or reachable(rest) is not rest:
        return None
    chosen, exact_prices = solve(rest)
    inside[open_pairs[chosen]] = True
    return inside, exact_prices


def _for_floors(problem: Problem, adjusted: np.ndarray, inside: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Pairs that floors still missed at these prices need, bool [P].

    For each such provider the nearest pairs left out, a few times what it misses, and in the
    queries of those pairs the worst pair taken, which would have to give way.
    """
    missing = np.append(np.maximum(problem.floor - problem.held(inside), 0), 0)  # place -1: no provider
    group = problem.group
    wanted = np.flatnonzero(~inside & (missing[group] > 0))
    wanted = wanted[np.lexsort((margin[wanted], group[wanted]))]
    place = np.arange(len(wanted)) - np.searchsorted(group[wanted], group[wanted], side="left")
    needed = np.zeros(len(margin), dtype=bool)
    needed[wanted[place < 3 * missing[group[wanted]] + 5]] = True
    asked = np.zeros(len(problem.slots), dtype=bool)
    asked[problem.query[needed]] = True
    order, place = ranked(problem, adjusted)
    last = order[place == problem.slots[problem.query[order]] - 1]
    needed[last[asked[problem.query[last]]]] = True
    return needed


def _margins(problem: Problem, adjusted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs a query would take, bool [P], and how far each is from being decided otherwise.

    A taken pair is compared to the first one left out, one left out to the last one taken. Where
    a query takes all it has, nothing is open.
    """
    order, place = ranked(problem, adjusted)
    wanted = problem.slots[problem.query[order]]
    last, following = (np.full(len(problem.slots), fill) for fill in (np.inf, -np.inf))
    for limit, at in ((last, wanted - 1), (following, wanted)):
        edge = order[place == at]
        limit[problem.query[edge]] = adjusted[edge]
    inside = np.zeros(len(order), dtype=bool)
    inside[order[place < wanted]] = True
    return inside, np.where(inside, adjusted - following[problem.query], last[problem.query] - adjusted)
