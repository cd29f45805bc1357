"""The next h items of a user, one after another: greedily, by beam, or as many sampled futures.

The model predicts one step; a generated item is appended to the history and the next step is
asked of the new state. Nothing seen and nothing generated comes again, so probabilities are
those of the permitted items: softmax over what is neither in the history nor in the branch.

    top     the h best items of the present state: no generation, what everything is compared to
    greedy  the most probable item, h times
    beam    the most probable sequence found among `beam` kept ones
    rra     `samples` drawn sequences; an item scores the sum of 1 / its place in them
    ra      the same sequences; an item scores the sum of its probabilities over all their steps.
            As items do not come again, that is the probability, averaged over sequences, that
            the item is among the next h.

Source: Volodkevich et al., "Autoregressive Generation Strategies for Top-K Sequential
Recommendations" (2024, arXiv 2409.17730). Theirs may generate an item twice; ours may not.

Cost:   per step S x B x (encoder row + I scores); see `incremental.py` for the history.
Shapes: Q queries, S queries of a batch, B branches (beam or samples), I items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from duality.encoders.base import Layout
from duality.errors import InputError
from duality.model.incremental import Continued, continued
from duality.model.two_sided import TwoSided
from duality.runtime import progress

METHODS = ("top", "greedy", "beam", "rra", "ra")
_CELLS = 6_000_000  # scores held at once
_ROWS = 16_000  # history rows, padding included, encoded at once
_TIE = 1e-9  # of the present probability: orders items that the sequences leave equal

Lists = dict[str, dict[int, np.ndarray]]


@dataclass(frozen=True)
class Decoding:
    """How to continue.

    Args:
        steps: horizons h that lists are wanted for, each >= 1.
        beam: sequences kept by the beam search, >= 1.
        samples: sequences drawn per user, >= 1.
        temperature: divides the scores before drawing, > 0.
        seed: of the draws.

    Raises:
        InputError: a value out of range.
    """

    steps: tuple[int, ...] = (1, 5, 10)
    beam: int = 5
    samples: int = 30
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1:
            raise InputError("steps: give whole numbers from 1, e.g. 1,5,10")
        if min(self.beam, self.samples) < 1:
            raise InputError("beam and samples: give at least 1")
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"temperature {self.temperature}: give a number above 0")

    @property
    def last(self) -> int:
        return max(self.steps)


@torch.inference_mode()
def continuations(
    model: TwoSided,
    vectors: Tensor,
    items: Tensor,
    histories: tuple[np.ndarray, np.ndarray],
    options: Decoding,
) -> Lists:
    """What each user does next, by every method of `METHODS`.

    Args:
        model: in evaluation mode.
        vectors: float32 [I, D], item vectors that histories are made of.
        items: float32 [I, D + 3], stored form, which scores are taken with.
        histories: item rows int [P] of all histories, oldest first, and lengths int64 [Q] >= 1.
        options: horizons and widths.

    Returns:
        {method: {h: int64 [Q, h]}}, item rows, best (or first) first.

    Raises:
        InputError: a user has fewer unseen items than there are steps.
        ValueError: an empty history.
    """
    rows_of_all, lengths = histories
    if len(lengths) and lengths.min() < 1:
        raise ValueError("a history to continue needs at least one event")
    lists: Lists = {m: {h: np.empty((len(lengths), h), np.int64) for h in options.steps} for m in METHODS}
    noise = torch.Generator().manual_seed(options.seed)
    starts = np.concatenate(([0], np.cumsum(lengths)))[:-1]
    width = max(options.beam, options.samples) * len(items)
    with progress(len(lengths), "continuing histories", unit="users") as bar:
        for batch in _batches(lengths, width):
            ends = zip(starts[batch], lengths[batch], strict=True)
            rows = [rows_of_all[start : start + n] for start, n in ends]
            step = _Batch(model, (vectors, items), rows, options)
            for method, found in step.all(noise).items():
                for h, part in found.items():
                    lists[method][h][batch] = part.numpy()
            bar.advance(len(batch))
    return lists


def _batches(lengths: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Queries in batches, shortest history first, within the budgets of scores and padded rows."""
    order, start = np.argsort(lengths, kind="stable"), 0
    while start < len(order):
        most = max(_CELLS // width, 1)
        part = order[start : start + most]
        fits = lengths[part] * np.arange(1, len(part) + 1) <= _ROWS
        stop = start + max(int(fits.sum()), 1)
        yield order[start:stop]
        start = stop


class _Batch:
    """One batch of users: their present state, and every way to go on from it."""

    def __init__(
        self, model: TwoSided, items: tuple[Tensor, Tensor], rows: list[np.ndarray], options: Decoding
    ) -> None:
        self.model, self.options = model, options
        self.vectors, self.stored = items
        # A partition that all items share moves none past another, and is not computed.
        self.partitioned = bool((self.stored[:, model.dim] != 1).any())
        self.items = torch.from_numpy(np.concatenate(rows).astype(np.int64))
        self.layout = Layout(np.array([len(row) for row in rows], dtype=np.int64))
        owner = np.repeat(np.arange(len(rows)), self.layout.lengths)
        self.seen = torch.zeros(len(rows), len(self.stored), dtype=torch.bool)
        self.seen[torch.from_numpy(owner), self.items] = True
        if int((~self.seen).sum(1).min()) < options.last:
            raise InputError(
                f"{options.last} steps: a user has fewer unseen items than that: ask for fewer steps"
            )

    def start(self) -> Continued:
        """The histories, ready to be continued."""
        return continued(self.model.user_encoder, self._inputs(self.items), self.layout)

    def _inputs(self, items: Tensor) -> Tensor:
        return self.model.user_rows(self.vectors[items], None)

    def scores(self, states: Tensor, taken: Tensor) -> Tensor:
        """Scores of states float [S, B, D]: float [S, B, I], -inf where bool [S, B, I] is taken."""
        dim, states = self.model.dim, self.model.finished(states)
        scores = states @ self.stored[:, :dim].T + self.stored[:, -1]
        if self.partitioned:
            partition = self.model.log_partition(states.reshape(-1, dim)).view(*states.shape[:-1], 1)
            scores -= partition * self.stored[:, dim]
        return scores.masked_fill_(taken, -torch.inf)

    def all(self, noise: torch.Generator) -> dict[str, dict[int, Tensor]]:
        """Lists of every method: {method: {h: int64 [S, h]}}."""
        history = self.start()
        present = self.scores(history.last[:, None], self.seen[:, None])[:, 0]
        top = present.topk(self.options.last, dim=1).indices
        rra, ra = self._sampled(noise, present)
        return {
            "top": {h: top[:, :h] for h in self.options.steps},
            "greedy": self._beam(history, 1),
            "beam": self._beam(self.start(), self.options.beam),
            "rra": rra,
            "ra": ra,
        }

    def _beam(self, history: Continued, width: int) -> dict[int, Tensor]:
        """The best sequence of each horizon among `width` kept ones."""
        queries = torch.arange(len(self.seen))[:, None]
        taken = self.seen[:, None].repeat(1, width, 1)
        states = history.last[:, None].expand(-1, width, -1)
        total = torch.full((len(self.seen), width), -torch.inf)
        total[:, 0] = 0.0  # all branches are the same before the first step: one may go on
        sequences, found = torch.empty(len(self.seen), width, 0, dtype=torch.int64), {}
        for h in range(1, self.options.last + 1):
            gains = total[:, :, None] + self.scores(states, taken).log_softmax(-1)
            total, place = gains.flatten(1).topk(width, dim=1)
            parents, chosen = place // taken.shape[2], place % taken.shape[2]
            sequences = torch.cat((sequences[queries, parents], chosen[:, :, None]), dim=2)
            taken = taken[queries, parents].scatter_(2, chosen[:, :, None], True)
            if h in self.options.steps:
                found[h] = sequences[:, 0]
            if h < self.options.last:
                history.keep(parents)
                states = history.extend(self._inputs(chosen))
        return found

    def _sampled(
        self, noise: torch.Generator, present: Tensor
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Lists of `rra` and `ra` per horizon, from the same sequences."""
        width, history = self.options.samples, self.start()
        taken = self.seen[:, None].repeat(1, width, 1)
        states = history.last[:, None].expand(-1, width, -1)
        base = present.double().softmax(1) * _TIE
        by_rank, by_relevance = base.clone().masked_fill_(self.seen, -1.0), base.masked_fill(self.seen, -1.0)
        rra, ra = {}, {}
        for h in range(1, self.options.last + 1):
            chances = (self.scores(states, taken) / self.options.temperature).softmax(-1)
            chosen = _drawn(chances, noise)
            by_relevance += chances.sum(1, dtype=torch.float64)
            by_rank.scatter_add_(1, chosen, torch.full(chosen.shape, 1.0 / h, dtype=torch.float64))
            if h in self.options.steps:
                rra[h], ra[h] = by_rank.topk(h, dim=1).indices, by_relevance.topk(h, dim=1).indices
            taken.scatter_(2, chosen[:, :, None], True)
            if h < self.options.last:
                states = history.extend(self._inputs(chosen))
        return rra, ra


def _drawn(chances: Tensor, noise: torch.Generator) -> Tensor:
    """One item per branch: chances float [S, B, I] to int64 [S, B]."""
    until = chances.cumsum(-1)
    # Strictly below the last sum: a draw that rounds up to it would fall on the last item, taken or not.
    most = torch.nextafter(until[..., -1:], torch.zeros(()))
    aim = (torch.rand(until[..., :1].shape, generator=noise) * until[..., -1:]).minimum(most)
    return torch.searchsorted(until, aim, right=True)[..., 0]
