"""Scores of items that training never saw, made comparable with those of the trained ones.

A vector g made from few users is a guess at the vector e that training would have found, and <u, g> - log Z(u)
is off in three ways. Guesses are spread too widely; what is left open about e is worth more to users whose states are
long, and those are the ones with a large log Z; and the level is free, for an item that only ever appears
as the answer learns to score high. For Gaussian e the expected probability has the form

    log p = slope <u, g> - partition log Z(u) + level,    partition below 1

and the three numbers are found by counting: between the n-th and the next user of an item, with d events going by
in the whole log, d x mean p users are expected. `weigh` maximises the likelihood of who arrived and when,
a Poisson process, for each number of users so far. Inner-product search stays exact: the stored item is
[slope g, partition, level].

Shapes: E events, I items, H events of the item histories, D dimensions, T intervals, N intervals of a
group, S states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duality.data.dataset import Dataset
from duality.data.histories import Histories
from duality.errors import InputError
from duality.model.two_sided import TwoSided

GROUPS = 7  # 0, 1, 2-3, 4-7, 8-15, 16-31, 32 or more users so far
# Sampled of a group: arrivals, intervals, users asked about each interval. Few large partitions decide how much
# the partition counts: with 256 users it came out .6 instead of .4.
ARRIVALS, INTERVALS, STATES = 6_000, 2_000, 2_048
FEWEST = 10  # arrivals of a group that is fitted
UNFITTED = (1.0, 1.0, 0.0)  # slope, partition, level
STEPS, CLOSE = 60, 1e-4  # of Newton's method at most; a step that is no longer worth taking
PRIOR = 16.0  # 1 / variance of slope and partition around 1: tens of arrivals leave them near it


def group_of(users: np.ndarray) -> np.ndarray:
    """Group of a number of users so far, int64, 0 to GROUPS - 1."""
    return np.minimum(np.frexp(users)[1], GROUPS - 1).astype(np.int64)


def recorded_weights(extra: dict[str, Any], path: Path) -> np.ndarray:
    """What an index says it weighs generated scores by, float32 [GROUPS, 3].

    Args:
        extra: of the manifest of the index at `path`.

    Raises:
        InputError: it was built before there were such weights.
    """
    if "generated_weights" not in extra:
        raise InputError(
            f"index {path}: it was built by an earlier version: build it again with `duality index build`"
        )
    return np.array(extra["generated_weights"], np.float32)


@torch.inference_mode()
def weigh(
    model: TwoSided,
    dataset: Dataset,
    visible: np.ndarray,
    histories: Histories,
    before: Tensor,
    vectors: Callable[[np.ndarray], Tensor],
    groups: int = GROUPS,
) -> np.ndarray:
    """Slope, partition and level of generated scores, by number of users so far.

    Args:
        visible: bool [E], events that may be used.
        histories: visible item histories.
        before: float32 [E, D], users strictly before each visible event; those of `events_read` are enough.
        vectors: rows of `histories` int64 [N] to the items after these events, float32 [N, D]; row -1 is the
            item without users.
        groups: how many are weighed, those of the fewest users.

    Returns:
        float32 [GROUPS, 3]; `UNFITTED` where fewer than FEWEST arrivals were counted.

    Cost: about a second for histories of any length.
    """
    intervals, chosen, drawn = _drawn(dataset, visible, histories, groups)
    states = before[torch.from_numpy(chosen)]
    negative = -model.log_partition(states)
    found = np.tile(np.array(UNFITTED, np.float32), (GROUPS, 1))
    for number, mine in enumerate(drawn):
        arrived = mine[intervals.arrived[mine]]
        if len(arrived) < FEWEST:
            continue
        some, asked = arrived[:ARRIVALS], mine[:INTERVALS]
        new = before[torch.from_numpy(intervals.event[some])]
        counted = (vectors(intervals.row[some]) * new).sum(1), -model.log_partition(new)
        found[number] = _fit(
            len(arrived),
            torch.stack(counted).double().mean(1),
            vectors(intervals.row[asked]) @ states.T,
            negative,
            torch.from_numpy(intervals.length[asked] * (len(mine) / len(asked) / len(states))).float().log(),
        )
    return found


def events_read(dataset: Dataset, visible: np.ndarray, histories: Histories, groups: int) -> np.ndarray:
    """Events, int64 [N], before which `weigh` with the same arguments asks who the user was."""
    intervals, chosen, drawn = _drawn(dataset, visible, histories, groups)
    arrived = [mine[intervals.arrived[mine]][:ARRIVALS] for mine in drawn]
    return np.concatenate([chosen, *(intervals.event[some] for some in arrived)])


def _drawn(
    dataset: Dataset, visible: np.ndarray, histories: Histories, groups: int
) -> tuple[_Intervals, np.ndarray, list[np.ndarray]]:
    """Intervals, the events int64 [S] whose users are asked about them, and the intervals of each group, int64, in the
    order in which they are drawn; the same every time, and for every number of groups."""
    rng = np.random.default_rng(0)
    intervals = _intervals(dataset, visible, histories, rng)
    chosen = rng.permutation(np.flatnonzero(visible))[:STATES]
    group = group_of(intervals.users)
    return intervals, chosen, [rng.permutation(np.flatnonzero(group == number)) for number in range(groups)]


def _fit(
    arrivals: int, arrived: Tensor, scores: Tensor, partition: Tensor, log_length: Tensor
) -> tuple[float, float, float]:
    """The most likely slope, partition and level of one group, by Newton's method.

    The level that makes expected and counted arrivals equal is known in closed form, and what is left is
    arrivals x (arrived . w - log-sum-exp(features . w)), concave in w = (slope, partition).

    Args:
        arrived: float64 [2], means of both features over those who arrived.
        scores: float32 [N, S], <u, g> of each interval and state.
        partition: float32 [S], -log Z(u).
        log_length: float32 [N], log of the events that an interval and a state stand for; -inf for none.
    """
    prior = PRIOR / arrivals
    # Where scores are so wide that one cell has all the mass there is no curvature to go by: begin with them narrow.
    start = torch.tensor([1 / max(1.0, float(scores.std())), 1.0], dtype=torch.float64)
    weights, best, reached, expected = start, start, -float("inf"), 0.0
    step = torch.zeros(2, dtype=torch.float64)
    for _ in range(STEPS):
        exponents = (scores * float(weights[0])).add_(partition * float(weights[1])).add_(log_length[:, None])
        top = exponents.max()
        chances = exponents.sub_(top).exp_()
        mass = chances.sum(dtype=torch.float64)
        log_mass = float(top) + float(mass.log())
        value = float(arrived @ weights) - log_mass - prior / 2 * float(((weights - 1) ** 2).sum())
        if value < reached:  # too far: Newton's step trusts a curvature that scores of this width do not keep
            step = step / 2
        else:
            mean, spread = _moments(chances, mass, scores, partition)
            gradient = arrived - mean - prior * (weights - 1)
            step = torch.linalg.solve(spread + prior * torch.eye(2, dtype=torch.float64), gradient)
            step = step / step.abs().max().clamp(min=1.0)
            best, reached, expected = weights, value, log_mass
        if step.abs().max() < CLOSE:
            break
        weights = best + step
    return float(best[0]), float(best[1]), float(np.log(arrivals)) - expected


def _moments(chances: Tensor, mass: Tensor, scores: Tensor, partition: Tensor) -> tuple[Tensor, Tensor]:
    """Mean float64 [2] and covariance float64 [2, 2] of (score, partition) under `chances` / mass, float32 [N, S]."""
    weighed = chances * scores
    by_state = torch.stack((chances.sum(0), weighed.sum(0), weighed.mul_(scores).sum(0))).double() / mass
    minus = partition.double()
    mean = torch.stack((by_state[1].sum(), by_state[0] @ minus))
    cross = by_state[1] @ minus
    second = torch.stack((by_state[2].sum(), cross, cross, by_state[0] @ minus**2)).view(2, 2)
    return mean, second - mean[:, None] * mean


@dataclass(frozen=True, eq=False)
class _Intervals:
    """Every stretch between two users of an item, the ones before the first and after the last too.

    Args:
        users: int64 [T], users so far.
        row: int64 [T], the row of the histories that was current, -1 for none yet.
        event: int64 [T], the event that ended it; meaningless where none did.
        length: float64 [T], events that went by in the whole log.
        arrived: bool [T], whether a user ended it.
    """

    users: np.ndarray
    row: np.ndarray
    event: np.ndarray
    length: np.ndarray
    arrived: np.ndarray


def _intervals(
    dataset: Dataset, visible: np.ndarray, histories: Histories, rng: np.random.Generator
) -> _Intervals:
    seen = np.flatnonzero(visible)
    time = dataset.event_time
    order = rng.permutation(len(seen)) if time is None else np.argsort(time[seen], kind="stable")
    clock = np.zeros(dataset.num_events)
    clock[seen[order]] = np.arange(len(seen))
    owner = np.repeat(np.arange(histories.num_owners), histories.lengths)
    arrival = clock[histories.event]
    arrival = arrival[np.lexsort((arrival, owner))]
    first_row = histories.indptr[:-1] + np.arange(histories.num_owners)
    total = len(arrival) + histories.num_owners
    starts_item = np.zeros(total, dtype=bool)
    starts_item[first_row] = True
    starts, ends = np.zeros(total), np.full(total, float(len(seen)))
    starts[~starts_item] = arrival
    ends_item = np.roll(starts_item, -1)
    ends[~ends_item] = arrival
    row = np.full(total, -1, dtype=np.int64)
    row[~starts_item] = np.arange(len(arrival))
    users = np.arange(total) - np.repeat(first_row, histories.lengths + 1)
    event = np.zeros(total, dtype=np.int64)
    event[~ends_item] = histories.event
    return _Intervals(users, row, event, ends - starts, ~ends_item)
