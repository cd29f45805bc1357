"""What G could reach at best: cold items with a trained embedding after all, made without the users that are asked.

The model stays as it is. Each cold item's vector minimises the next-item loss over all its events but those
asked, up to hundreds where G has five, among everything that training saw.

Shapes: N events, C cold items, I items, D dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from duality.embeddings import stored_items
from duality.evaluation.cold import ColdQueries
from duality.evaluation.queries import ITEM_TO_USER, Queries
from duality.workflows.scorers import States

STEPS, ROWS, RATE = 1_500, 2_048, 0.02
EVERY, HELD = 50, 0.1  # steps between looks at the share of events that is kept from the fit


class TrainedAfterAll:
    """Cold items with embeddings of their own, the others as they are.

    Args:
        fitted: float [C, D], of `embeddings_after_all`.
    """

    name = "trained"

    def __init__(self, states: States, asked: ColdQueries, fitted: Tensor) -> None:
        self.states = states
        self.items = states.items.copy()
        self.items[np.flatnonzero(asked.arrivals.lengths)] = stored_items(fitted)

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        if direction == ITEM_TO_USER:
            return self.states.user_scores(self.items[queries.item[rows]], queries, rows)
        return self.states.users_before(queries.event[rows]) @ self.items.T


def embeddings_after_all(states: States, asked: ColdQueries) -> Tensor:
    """Of the cold items that are asked about, float32 [C, D], of the step that did best on the events kept from the fit.

    Cost: minutes for ten thousand items.
    """
    owners = np.flatnonzero(asked.arrivals.lengths)
    generator = torch.Generator().manual_seed(0)
    users, target = _examples(states, asked, owners)
    held = torch.rand(len(users), generator=generator) < HELD
    judge = torch.nonzero(held & (target < len(owners)))[:, 0]
    fit = torch.nonzero(~held)[:, 0]
    others = states.model.item_table.detach()[states.model.trained]
    vectors = torch.zeros(len(owners), states.model.dim, requires_grad=True)
    optimizer = torch.optim.Adam([vectors], lr=RATE)
    best, kept = float("inf"), vectors.detach().clone()
    for step in range(STEPS):
        if step % EVERY == 0:
            with torch.no_grad():
                now = float(_loss(users[judge], target[judge], vectors, others))
            if now < best:
                best, kept = now, vectors.detach().clone()
        some = fit[torch.randint(len(fit), (ROWS,), generator=generator)]
        optimizer.zero_grad()
        _loss(users[some], target[some], vectors, others).backward()
        optimizer.step()
    return kept


def _loss(users: Tensor, target: Tensor, vectors: Tensor, others: Tensor) -> Tensor:
    return functional.cross_entropy(users @ torch.cat((vectors, others)).T, target)


def _examples(states: States, asked: ColdQueries, owners: np.ndarray) -> tuple[Tensor, Tensor]:
    """Users float32 [N, D] and the place of their next item among cold ones and then trained ones, int64 [N]."""
    place = np.full(states.dataset.num_items, -1)
    place[owners] = np.arange(len(owners))
    trained = np.flatnonzero(states.model.trained.numpy())
    place[trained] = len(owners) + np.arange(len(trained))
    cold = np.setdiff1d(asked.arrivals.event, asked.events)
    events = np.concatenate((cold, np.flatnonzero(states.visible)))
    target = place[states.dataset.event_item[events]]
    events, target = events[target >= 0], target[target >= 0]
    users = states.users_before(events)[:, : states.model.dim]
    return torch.from_numpy(users), torch.from_numpy(target)
