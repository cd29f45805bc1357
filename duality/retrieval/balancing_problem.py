"""The balancing problem: candidate pairs, what must hold, what prices prove, what can be reached.

Shapes: P candidate pairs, Q queries, I items, G providers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import maximum_flow


@dataclass(frozen=True, eq=False)
class Problem:
    """Candidate pairs and what must hold.

    Attributes:
        query, item: int64 [P], no pair twice.
        value: float64 [P], finite; what a pair is worth, e.g. its probability.
        slots: int64 [Q], list length wanted of each query.
        provider: int64 [I], -1 for none.
        floor: int64 [G], least slots of each provider.
        ceiling: int64 [I], most slots of each item.
        total: slots to fill altogether; None: every slot.

    Raises:
        ValueError: sizes disagree, a value is not finite, a count is negative, a pair stands twice.
    """

    query: np.ndarray
    item: np.ndarray
    value: np.ndarray
    slots: np.ndarray
    provider: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray
    total: int | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.value).all() or not len(self.query) == len(self.item) == len(self.value):
            raise ValueError("a problem needs finite values, one per pair")
        if min(part.min(initial=0) for part in (self.floor, self.ceiling, self.slots)) < 0:
            raise ValueError("floors, ceilings and slots cannot be negative")
        if len(self.provider) != len(self.ceiling) or self.provider.max(initial=-1) >= len(self.floor):
            raise ValueError("one provider (or -1) and one ceiling per item, one floor per provider")
        keys = self.query * max(len(self.ceiling), 1) + self.item
        if len(np.unique(keys)) < len(keys):
            raise ValueError("a pair stands twice")

    @property
    def group(self) -> np.ndarray:
        """int64 [P], provider of each pair."""
        return self.provider[self.item]

    def held(self, chosen: np.ndarray) -> np.ndarray:
        """Slots of each provider, int64 [G], from chosen pairs (bool [P] or int64)."""
        group = self.group[chosen]
        return np.bincount(group[group >= 0], minlength=len(self.floor))

    def listed(self, chosen: np.ndarray) -> np.ndarray:
        """Slots of each item, int64 [I]."""
        return np.bincount(self.item[chosen], minlength=len(self.ceiling))

    def part(self, pairs: np.ndarray, taken: np.ndarray) -> Problem | None:
        """What remains on some pairs once others are taken; None when those break a ceiling.

        Args:
            pairs: int64, still open.
            taken: int64, already chosen: they use up slots and ceilings and serve floors.
        """
        ceiling = self.ceiling - self.listed(taken)
        if ceiling.min(initial=0) < 0:
            return None
        return replace(
            self,
            query=self.query[pairs],
            item=self.item[pairs],
            value=self.value[pairs],
            slots=self.slots - np.bincount(self.query[taken], minlength=len(self.slots)),
            floor=np.maximum(self.floor - self.held(taken), 0),
            ceiling=ceiling,
        )


@dataclass(frozen=True, eq=False)
class Prices:
    """What a constraint is worth.

    Attributes:
        floor: float64 [G] >= 0, bonus of a provider's items.
        ceiling: float64 [I] >= 0, price of an item.
        slot: added to every pair; not 0 only where not every slot can be filled.
    """

    floor: np.ndarray
    ceiling: np.ndarray
    slot: float = 0.0

    def adjust(self, problem: Problem) -> np.ndarray:
        """Value after prices and bonuses, float64 [P]."""
        bonus = np.concatenate((self.floor, [0.0]))  # place -1: no provider
        return problem.value - self.ceiling[problem.item] + bonus[problem.group] + self.slot

    def paid_back(self, problem: Problem) -> float:
        """What the bound adds for the prices, all limits fully used."""
        return float(
            problem.ceiling @ self.ceiling
            - problem.floor @ self.floor
            - (0 if problem.total is None else problem.total) * self.slot
        )


def ranked(problem: Problem, adjusted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs by query, best first, and each one's place in its query: int64 [P] twice.

    One sort of query number plus a fraction that falls with the value: several times faster
    than a two-key sort. Values closer than 1e-15 x Q of the whole range may change places.
    """
    low, high = adjusted.min(initial=0.0), adjusted.max(initial=0.0)
    order = np.argsort(problem.query + (high - adjusted) / ((high - low) * 1.001 + 1e-300))
    counts = np.bincount(problem.query, minlength=len(problem.slots))
    return order, np.arange(len(order)) - (np.cumsum(counts) - counts)[problem.query[order]]


def bound_at(problem: Problem, prices: Prices) -> float:
    """Lagrangian bound: no feasible choice has more value, whatever the prices are.

    Each query takes its best pairs at these prices, then ceilings are paid back and bonuses of
    floors taken back.
    """
    adjusted = prices.adjust(problem)
    order, place = ranked(problem, adjusted)
    best = adjusted[order[place < problem.slots[problem.query[order]]]]
    gain = best.sum() if problem.total is None else np.maximum(best, 0.0).sum()
    return float(gain) + prices.paid_back(problem)


def reachable(problem: Problem) -> Problem:
    """The same problem with what cannot hold lowered to what can.

    The most slots that can be filled, and floors missed by as little as possible in total. The
    two do not compete: an augmenting path to the sink never takes back what already flows into
    it, so a flow that serves the floors best extends to one that also fills the most slots.

    Returns:
        The problem itself when everything can hold.
    """
    total = _flow(problem, np.full(len(problem.floor), np.iinfo(np.int32).max // 4))[0]
    served = _flow(problem, problem.floor, ungrouped=False)[1]
    if total == problem.slots.sum() and (served == problem.floor).all():
        return problem
    return replace(problem, floor=served, total=int(total) if total < problem.slots.sum() else None)


def _flow(problem: Problem, limits: np.ndarray, *, ungrouped: bool = True) -> tuple[int, np.ndarray]:
    """Largest flow from queries through items and providers: its size, and int64 [G] per provider.

    Nodes: source, queries, items, providers, sink.
    """
    sizes = len(problem.slots), len(problem.ceiling), len(problem.floor)
    query, item, group, sink = np.cumsum((1, *sizes))
    grouped = problem.provider >= 0
    alone = np.flatnonzero(~grouped) if ungrouped else np.empty(0, dtype=np.int64)
    arcs = [
        (np.zeros(sizes[0], np.int64), query + np.arange(sizes[0]), problem.slots),
        (query + problem.query, item + problem.item, np.ones(len(problem.query), np.int64)),
        (item + np.flatnonzero(grouped), group + problem.provider[grouped], problem.ceiling[grouped]),
        (item + alone, np.full(len(alone), sink), problem.ceiling[alone]),
        (group + np.arange(sizes[2]), np.full(sizes[2], sink), limits),
    ]
    start, end, capacity = (np.concatenate(part) for part in zip(*arcs, strict=True))
    used = capacity > 0
    graph = sparse.csr_matrix(
        (np.minimum(capacity[used], 2**30).astype(np.int32), (start[used], end[used])),
        shape=(sink + 1, sink + 1),
    )
    flow = maximum_flow(graph, 0, int(sink))
    into = flow.flow[group : group + sizes[2], sink].toarray().ravel().astype(np.int64)
    return int(flow.flow_value), into
