"""What one training step minimises: next item, next user and both cycles.

A step takes a packed batch of users (whole histories of items) and a packed batch of items (windows
of their histories of users). Each side reads the other from its bank of states; where an event of the item
batch belongs to a user of the user batch, the live state replaces the stored one, so that
gradients of the item side reach F and the item table.

    next item   softmax over items of <u, e>
    next user   softmax over states of <e, u> - log Z(u) (live users, trained items)
                + softmax over states of <g, u> - partition log Z(u) (live items; banked users of the same moment)
                + softmax over generated and trained items of <u, g>: one pool, one scale
    cycle       g made from an item's users must be nearest to that item's e;
                u remade from its items' generated vectors must be nearest to that user's u

A negative user of an item never met it and is taken no later than the moment of the query.

Shapes: P rows of the user batch, R rows of the item batch, Q sampled queries, D dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import parametrize

from duality.encoders.base import Encoder, Layout
from duality.model.bank import StateBank
from duality.model.batch import Batch, forbidden_users, met_owner_by_member
from duality.model.live import Live
from duality.model.loss_config import LossConfig
from duality.model.losses import competition_loss, cycle_loss, partition_among, softmax_loss
from duality.model.negatives import draw_negatives
from duality.model.own_negatives import draw_own, own_negatives_loss
from duality.model.pair_losses import PairKind, gbce_power, pair_loss
from duality.model.ranks import Alone
from duality.model.rivals import Rivals
from duality.model.two_sided import TwoSided
from duality.samplers import Sampler, Uniform

POOL = 4096  # trained items that generated ones compete with at most: a step's cost has a bound
Drawn = tuple[Tensor, Tensor, Tensor]  # vectors [M, D], each row's own among them [Q] or -1, offsets [M]
Rows = slice | np.ndarray  # rows of a batch


class Objective:
    """The losses of one model over its two banks.

    Args:
        model: trained in place.
        config: weights and sizes.
        user_bank, item_bank: states just before each event.
        rng: draws negatives and query rows.
        rivals: of the next-user losses.
        sampler: of the next-item loss's negatives; uniform by default.
        ranks: who encodes what.
    """

    def __init__(
        self,
        model: TwoSided,
        config: LossConfig,
        user_bank: StateBank,
        item_bank: StateBank,
        rng: np.random.Generator,
        *,
        rivals: Rivals,
        sampler: Sampler | None = None,
        ranks: Alone | None = None,
    ) -> None:
        self.ranks = ranks or Alone()
        self.model, self.config, self.rng = model, config, rng
        self.everyone = Uniform(model.num_items)
        self.sampler = sampler or self.everyone
        self.user_bank, self.item_bank, self.rivals = user_bank, item_bank, rivals

    @property
    def device(self) -> torch.device:
        return self.model.empty_user.device

    def step(self, users: Batch, items: Batch | None, *, remake_users: bool) -> dict[str, Tensor]:
        """Weighted losses of one step, by name; also writes both banks.

        Args:
            users: histories of items.
            items: histories of users, or None while only the user side warms up.
            remake_users: whether the item bank is filled, so that the user cycle can run.
        """
        noisy = [encoder for encoder in self._encoders() if encoder.noisy]
        for encoder in noisy:
            encoder.draw()
        before = (self.rng.bit_generator.state, torch.get_rng_state())
        with parametrize.cached():
            losses = self._losses(users, items, remake_users)
        if noisy:
            losses["noise"] = self._noise(noisy, losses, before, (users, items, remake_users))
        return losses

    def _encoders(self) -> list[Encoder]:
        """F and, if it is another, G."""
        return [e for e in (self.model.user_encoder, self.model.item_encoder) if e is not None]

    def _noise(
        self,
        noisy: list[Encoder],
        losses: dict[str, Tensor],
        before: tuple[Any, Tensor],
        step: tuple[Batch, Batch | None, bool],
    ) -> Tensor:
        """Penalties of encoders that draw, from the same step with the opposite draw and the same chances else."""
        after = (self.rng.bit_generator.state, torch.get_rng_state())
        for encoder in noisy:
            encoder.turn()
        self._set_chances(before)
        with torch.no_grad():
            opposite = self._losses(*step)
        self._set_chances(after)
        difference = torch.stack([losses[name].detach() - opposite[name] for name in losses]).sum()
        return torch.stack([encoder.penalty(difference) for encoder in noisy]).sum()

    def _set_chances(self, state: tuple[Any, Tensor]) -> None:
        self.rng.bit_generator.state = state[0]
        torch.set_rng_state(state[1])

    def _losses(self, users: Batch, items: Batch | None, remake_users: bool) -> dict[str, Tensor]:
        live_users, losses = self._user_side(users)
        if items is not None:
            live_items, item_losses = self._item_side(items, live_users)
            losses |= item_losses
            if remake_users and self.config.cycle_user and len(users.layout.lengths) > 1:
                losses |= self._remade_users(users, live_users, live_items)
        # The next item's rows are divided among the processes, everything else is the same in all.
        share = {"next_item": 1.0}
        return {
            name: getattr(self.config, name) * share.get(name, 1 / self.ranks.world) * loss
            for name, loss in losses.items()
        }

    def _user_side(self, batch: Batch) -> tuple[Live, dict[str, Tensor]]:
        vectors = self.model.item_rows(self._tensor(batch.members))
        wanted = self._wanted(self.model.user_encoder, batch.layout)
        made, own = self.ranks.encode(
            lambda rows, layout: self.model.users_before(rows, layout, wanted),
            vectors,
            batch.layout,
            self.model.empty_user,
        )
        mine: Rows = own if wanted is None else wanted
        together = self._reads_everybody
        before = self.ranks.everybody(made) if together else made
        live = _live(batch, before, slice(None) if together and wanted is None else mine)
        drawn = self._item_candidates(batch.members, before, self.config.negatives, self.sampler)
        losses: dict[str, Tensor] = {}
        log_partition = None
        if self.config.next_item:
            losses["next_item"], log_partition = self._next_item(batch, vectors, mine, made, drawn)
        if self.config.two_sided:
            whole = (
                self.model.log_partition(before)
                if log_partition is None
                else self.ranks.gather(log_partition)
            )
            self.user_bank.write(live.event, before, whole[: len(before)])
        self._track_mean(made)
        if self.config.users_compete:
            losses["users_compete"] = self._users_compete(batch, live, vectors, drawn)
        return live, losses

    @property
    def _reads_everybody(self) -> bool:
        """Whether anything but the loss of the next item reads users' states."""
        return self.config.two_sided or self.config.users_compete > 0 or self.sampler.needs_queries

    def _users_compete(self, batch: Batch, live: Live, vectors: Tensor, drawn: Drawn) -> Tensor:
        """Live users for the trained items of some rows; `vectors` float [P, D] are those of all."""
        rows = live.row[self._sample(len(live.row), self.config.queries)]
        forbidden = self._tensor(forbidden_users(batch, rows, met_owner_by_member(batch, rows)))
        state, (candidates, _, offset) = live.at(rows), drawn
        level = None
        if self.config.users_compete_on == "log p":
            # The partition stays live: with it detached, growing every state and item raises the
            # positives for free, and the scores ran away (LOG.md, 2026-11-21).
            nobody = torch.full((len(rows),), -1, device=self.device)
            level = -partition_among(state, candidates, nobody, offset)
        return competition_loss(vectors[rows], state, forbidden, level=level)

    def _wanted(self, encoder: Encoder, layout: Layout) -> np.ndarray | None:
        """Rows whose states are made, ascending: all (None), or some where each is a pass over its prefix."""
        return None if encoder.causal else np.sort(self._sample(layout.num_rows, self.config.queries))

    def _asked(self, batch: Batch, vectors: Tensor, mine: Rows, made: Tensor) -> tuple[Rows, Tensor]:
        """Rows whose item is asked for, and the states that are asked: those that were made, then hidden rows
        seen from both sides, if the encoder can."""
        share = self.model.user_encoder.hidden_share
        if not share:
            return mine, made
        hidden = self._sample(len(batch.events), max(1, round(share * len(batch.events))))
        found = self.model.masked_users(vectors, batch.layout, hidden)
        return np.concatenate((np.arange(len(batch.events))[mine], hidden)), torch.cat((made, found))

    def _next_item(
        self, batch: Batch, vectors: Tensor, mine: Rows, made: Tensor, drawn: Drawn
    ) -> tuple[Tensor, Tensor | None]:
        """Loss of the next item over this process's own rows, as their share of all, and their log Z where that
        comes with it; `made` are the states of the rows `mine`."""
        config, (candidates, column, offset) = self.config, drawn
        rows, states = self._asked(batch, vectors, mine, made)
        targets, column = vectors[rows], column[rows]
        share = len(states) / len(batch.events) if isinstance(rows, slice) else 1.0
        # All processes draw for all rows, or their draws would part ways.
        owners = batch.owners if config.unmet_negatives else None
        negatives = draw_own(batch.members, config.own_negatives, self.model.num_items, self.rng, owners)
        if not len(states):
            with_partition = config.kind == "softmax" and not config.own_negatives
            return states.sum(), states.new_zeros(0) if with_partition else None
        if config.own_negatives:
            return self._own_negatives(states, targets, self._tensor(negatives[rows])) * share, None
        if config.kind == "softmax":
            loss, log_partition = softmax_loss(
                states, targets, candidates, column, offset=offset, trust=config.trust
            )
            return loss * share, log_partition
        kind, shape = self._pairs()
        weights = offset.exp() / self.model.num_items
        return pair_loss(kind, states, targets, candidates, column, weights, **shape) * share, None

    def _own_negatives(self, states: Tensor, targets: Tensor, drawn: Tensor) -> Tensor:
        """Loss of rows with negatives of their own, int64 [R, n]."""
        if self.config.kind == "softmax":
            return own_negatives_loss("softmax", self.model, states, targets, drawn)
        kind, shape = self._pairs()
        return own_negatives_loss(kind, self.model, states, targets, drawn, **shape)

    def _pairs(self) -> tuple[PairKind, dict[str, float]]:
        """Which loss of pairs the recipe's kind is, and its numbers."""
        config, power = self.config, 1.0
        if config.kind == "gbce":
            power = gbce_power(config.per_positive, self.model.num_items, config.calibration)
        return "bpr" if config.kind == "bpr" else "bce", {"per_positive": config.per_positive, "power": power}

    def _item_candidates(self, items: np.ndarray, states: Tensor, wanted: int, sampler: Sampler) -> Drawn:
        """Items that compete for each state: vectors [M, D], the column of each row's own item
        (-1: not drawn), and what to add to their scores so that they stand for all items, [M].

        Args:
            wanted: how many are drawn; 0 takes all.
        """
        if not wanted or wanted >= self.model.num_items:
            table = self.model.item_table
            return table, self._tensor(items), table.new_zeros(len(table))
        drawn, column, offset = draw_negatives(sampler, wanted, items, states, self.rng)
        rows = self.model.item_rows(self._tensor(drawn))
        return rows, self._tensor(column), self._tensor(offset).to(rows.dtype)

    def _item_side(self, batch: Batch, users: Live) -> tuple[Live, dict[str, Tensor]]:
        config = self.config
        incoming, log_partition = users.over(self.user_bank, batch.events)
        if not config.live_users:
            incoming = incoming.detach()
        rows = self._sample_early(batch.layout, config.item_queries)
        wanted = None if self.model.item_side.causal else np.sort(rows)
        made, _ = self.ranks.encode(
            lambda rows, layout: self.model.items_before(rows, layout, wanted),
            incoming,
            batch.layout,
            self.model.empty_item,
        )
        live = _live(batch, self.ranks.everybody(made), slice(None) if wanted is None else wanted)
        # At the start of a window the item is unknown here, though it need not be new.
        known = np.flatnonzero(batch.layout.positions[live.row])
        self.item_bank.write(live.event[known], live.state[self._tensor(known), : self.model.dim])
        generated, user = live.at(rows), incoming[rows]
        losses: dict[str, Tensor] = {}
        if config.next_user or config.next_user_trained:
            losses |= self._against_rivals(batch, rows, generated, user, log_partition[rows])
        if config.items_compete:
            losses["items_compete"] = self._one_pool(batch, rows, generated, user, log_partition[rows])
        seen = np.flatnonzero(batch.layout.positions[rows])
        if config.cycle_item and len(seen):  # none when every item of the batch has a single user
            made = generated[self._tensor(seen), : self.model.dim]
            losses["cycle_item"] = self._cycle_item(made, batch.owners[rows][seen])
        return live, losses

    def _one_pool(
        self, batch: Batch, rows: np.ndarray, generated: Tensor, user: Tensor, log_partition: Tensor
    ) -> Tensor:
        """Items compete for a user: the generated ones of the batch and trained ones, whose partition is 1."""
        items, dim = batch.owners[rows], self.model.dim
        # What G does not subtract of log Z is one more dimension.
        asked = torch.cat((user, log_partition[:, None]), dim=1)
        made = torch.cat((generated[:, :dim], 1 - generated[:, dim, None]), dim=1)
        met = self._tensor(self.rivals.met_among(batch.members[rows], items))
        pool, column, _ = self._item_candidates(items, user, POOL, self.everyone)
        trained = partition_among(user, pool.detach(), column)
        return competition_loss(asked, made, met, level=generated[:, -1], rest=trained)

    def _cycle_item(self, made: Tensor, items: np.ndarray) -> Tensor:
        """Generated vectors float [Q, D] of `items` against the trained ones, among trained ones."""
        original, temperature = self.model.item_rows(self._tensor(items)), self.config.temperature
        candidates, column, offset = self._item_candidates(items, made, POOL, self.everyone)
        return cycle_loss(made, original, candidates, column, temperature=temperature, offset=offset)

    def _against_rivals(
        self, batch: Batch, rows: np.ndarray, generated: Tensor, user: Tensor, log_partition: Tensor
    ) -> dict[str, Tensor]:
        """Next user among those who act around the same moment, asked of generated and of trained vectors."""
        items = batch.owners[rows]
        draw = self.rivals.draw(
            batch.events[rows], items, self.config.rival_groups, self.config.rivals, self.rng
        )
        states = _with_partition(*self.user_bank.read(draw.event.reshape(-1), self.device))
        states = states.view(*draw.event.shape, -1).transpose(1, 2)
        place, met = self._tensor(draw.query), self._tensor(draw.met)
        target = _with_partition(user, log_partition)[place]
        trained = self.model.item_rows(self._tensor(items[draw.query]))
        asked = {
            "next_user": generated[place, :-1],
            "next_user_trained": torch.cat((trained, trained.new_ones(*trained.shape[:2], 1)), 2),
        }
        losses = {}
        for name in (name for name in asked if getattr(self.config, name)):
            scores = (asked[name] @ states).masked_fill(met, -torch.inf)
            own = (asked[name] * target).sum(2)
            losses[name] = (torch.cat((own[..., None], scores), 2).logsumexp(2) - own).mean()
        return losses

    def _remade_users(self, batch: Batch, users: Live, items: Live) -> dict[str, Tensor]:
        """User cycle: F over the items as they were before this user came, against F over E.

        Empty when the users drawn have a single event each, so that nothing precedes any.
        """
        offsets = batch.layout.offsets
        first = int(self.rng.integers(len(offsets) - 2))
        reach = int(np.searchsorted(offsets, offsets[first] + self.config.cycle_rows, side="right")) - 1
        last = max(first + 2, reach)
        part = slice(offsets[first], offsets[last])
        layout = batch.layout.part(first, last)
        known = part.start + np.flatnonzero(layout.positions)
        if len(users.row) < len(batch.events):
            known = np.intersect1d(known, users.row)
        known = self.rng.permutation(known)[: self.config.item_queries]
        if not len(known):
            return {}
        generated, owner = self._generated_before(batch, part, items), batch.owners[known]
        remade = self._remade(generated, layout, known - part.start)
        queries = functional.normalize(remade, dim=1) / self.config.temperature
        originals = functional.normalize(users.at(known).detach(), dim=1)
        forbidden = self._tensor(owner[:, None] == owner)
        return {"cycle_user": competition_loss(queries, originals, forbidden)}

    def _remade(self, generated: Tensor, layout: Layout, rows: np.ndarray) -> Tensor:
        """F over generated items, float [Q, D], before the events of `rows`."""
        if self.model.user_encoder.causal:
            return self.model.users_before(generated, layout, None)[self._tensor(rows)]
        return self.model.users_before(generated, layout, rows)

    def _generated_before(self, batch: Batch, part: slice, items: Live) -> Tensor:
        """Items as made from the users before each event; trained vectors where the bank holds none."""
        events = batch.events[part]
        made, _ = items.over(self.item_bank, events)
        missing = np.flatnonzero(~self.item_bank.holds(events))
        trained = self.model.item_rows(self._tensor(batch.members[part][missing])).detach()
        return made.index_copy(0, self._tensor(missing), trained)

    def _track_mean(self, states: Tensor, momentum: float = 0.99) -> None:
        """Of this process's own states."""
        if self.model.training:
            ones = states.new_ones(len(states), 1)
            total = self.ranks.total(torch.cat((states.detach(), ones), 1).sum(0))
            self.model.population_mean.lerp_(total[:-1] / total[-1], 1 - momentum)

    def _sample(self, rows: int, most: int) -> np.ndarray:
        return self.rng.permutation(rows)[:most]

    def _sample_early(self, layout: Layout, most: int) -> np.ndarray:
        """Rows of the item batch, drawn with odds falling as 1/√position: few users is the case
        that G exists for, and the long tails of popular items would drown it."""
        keys = self.rng.exponential(size=layout.num_rows) * np.sqrt(layout.positions + 1)
        return np.argsort(keys)[:most]

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _live(batch: Batch, before: Tensor, rows: Rows) -> Live:
    return Live(np.arange(len(batch.events))[rows], batch.events[rows], before)


def _with_partition(states: Tensor, log_partition: Tensor) -> Tensor:
    """States float [N, D] and their log Z [N] as [u, -log Z(u)], float [N, D + 1]."""
    return torch.cat((states, -log_partition[:, None]), dim=1)
