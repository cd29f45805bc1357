"""The two sides joined: a table of items, the user encoder F over items, the item encoder G over users.

    u(x, t) = F(e[i_1], ..., e[i_t])               what user x is after t items
    g(j, s) = G(u(x_1, t_1 - 1), ..., u(x_s, t_s - 1))   what item j is after s users

Every user enters an item's history as they were just before that meeting. Both live in one space:
<u, e> scores a user and a trained item, <u, g> a user and an item known by its users alone.

Source: Huang, "Revisiting Self-Attentive Sequential Recommendation", section 4.4.

Shapes: P packed rows, D dimensions, I items.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from duality.config import Config
from duality.data.coding import Coded, Vocabulary
from duality.encoders.base import Encoder, Layout, prefix_states
from duality.encoders.registry import EncoderConfig, make_encoder, with_name
from duality.encoders.transformer import TransformerConfig
from duality.model.attributes import AttributeVectors, Composed, EventCodes, EventContext, OwnerVectors
from duality.model.cosine import Length, raw
from duality.model.gaps import TimeGaps
from duality.model.losses import log_partition
from duality.model.shared_rows import SharedRows


class ModelConfig(Config):
    """`[model]` of a recipe."""

    dim: int = 64
    user_encoder: EncoderConfig = TransformerConfig()
    item_encoder: EncoderConfig = TransformerConfig()
    shared_encoder: bool = False  # users encode items and items users with the weights of user_encoder
    # Standard deviation of items' rows before training, .02 in some published code; 0: one over the root of dim.
    item_std: float = Field(default=0.0, ge=0)
    item_history: int = 128  # newest users that an item is made from; 0 takes all
    score: Literal["inner product", "cosine"] = "inner product"
    temperature: float = Field(default=0.05, gt=0)  # of cosine scores
    learn_temperature: bool = False
    # Histories whose rows also know how long after the row before they happened.
    time_gaps: Literal["none", "users", "items", "both"] = "none"
    # The user encoder, if it knows time (hstu), is told when it is asked and not only when rows happened.
    request_time: bool = False
    # Columns of the users and items tables that histories know of their owner, and items are made of; `id` is a
    # vector of the owner's own.
    user_attributes: tuple[str, ...] = ()
    item_attributes: tuple[str, ...] = ()
    # Rows that all items share, two each, for catalogues whose table does not fit a device; 0: a row for every item.
    shared_rows: int = Field(default=0, ge=0)
    own_rows: bool = True  # false: items are their attributes alone, texts say, so that new ones lack nothing
    text_model: str = ""  # folder of the Hugging Face model that reads attributes named NAME:text
    # Other columns of the log, which rows of both sides know of their own event.
    event_attributes: tuple[str, ...] = ()
    owner_dropout: float = Field(default=0.5, ge=0, lt=1)  # share of histories that train without their owner

    @model_validator(mode="after")
    def _items_of_something(self) -> ModelConfig:
        if not self.own_rows and not self.item_attributes:
            raise ValueError("items without rows of their own are nothing: name model.item_attributes")
        if self.shared_rows and not self.own_rows:
            raise ValueError(
                "shared_rows are for items that have rows: set model.own_rows or shared_rows, not both"
            )
        return self

    @model_validator(mode="after")
    def _asked_of_one_that_knows(self) -> ModelConfig:
        if self.request_time and not getattr(self.user_encoder, "time_buckets", 0):
            raise ValueError(
                "request_time needs a user encoder that knows time: model.user_encoder.name=hstu"
            )
        return self

    _names = field_validator("user_encoder", "item_encoder", mode="before")(with_name)


class TwoSided(nn.Module):
    """Item table E, user encoder F, item encoder G and the states of empty histories."""

    population_mean: Tensor
    trained: Tensor
    generated_share: Tensor
    popularity: Tensor
    activity: Tensor

    def __init__(
        self,
        num_items: int,
        config: ModelConfig,
        *,
        users: Coded | None = None,
        items: Coded | None = None,
        events: Vocabulary | None = None,
    ) -> None:
        """`users` and `items` are the codes of their attributes, `events` the values of those of events, if the
        configuration names any."""
        super().__init__()
        self.config = config
        dim = config.dim
        # What the encoders multiply in: bfloat16 while they are trained so, else the weights' own type.
        self.low: torch.dtype | None = None
        rows = config.shared_rows or num_items
        spread = 1 / config.item_std if config.item_std else math.sqrt(dim)
        self.item_table = nn.Parameter(torch.randn(rows, dim) / spread)
        if not config.own_rows:
            self.item_table.requires_grad_(False).zero_()
        # Rows that training knew of; `grow` adds others, and they do not compete in log Z.
        self.fitted = num_items
        self.user_encoder = make_encoder(dim, config.user_encoder, "model.user_encoder")
        of_items = None if config.shared_encoder else config.item_encoder
        self.item_encoder = None if of_items is None else make_encoder(dim, of_items, "model.item_encoder")
        asked = config.time_gaps
        self.user_gaps = TimeGaps(dim) if asked in ("users", "both") else None
        self.item_gaps = TimeGaps(dim) if asked in ("items", "both") else None
        self.user_attributes = None if users is None else AttributeVectors(users, dim)
        self.user_owner = None if users is None else OwnerVectors(dim, config.owner_dropout)
        self.item_owner = None if items is None else OwnerVectors(dim, config.owner_dropout)
        self.event_codes = None if events is None else EventCodes(events)
        self.user_context, self.item_context = (
            None if events is None else EventContext(events.size, dim) for _ in range(2)
        )
        if config.shared_rows:
            register_parametrization(self, "item_table", SharedRows(num_items, dim), unsafe=True)
        if items is not None:
            register_parametrization(self, "item_table", Composed(AttributeVectors(items, dim)))
        # G starts as the centred mean of the item's users, the strongest simple control, and learns
        # what to change about it. From nothing it is behind after 300 steps (LOG.md, 2026-11-21).
        self.item_pool = nn.Linear(dim, dim, bias=False)
        self.item_head = nn.Linear(dim, dim)
        # How often an item is chosen goes here, or G would write it into the common direction
        # of all users and spoil the order among them.
        self.item_level = nn.Linear(dim + 1, 1)
        # How much of log Z(u) is subtracted: less while an item has few users (`duality.generated`).
        # With all of it next user came out .09 nats worse on movietweetings.
        self.item_partition = nn.Linear(1, 1)
        self.empty_user = nn.Parameter(torch.randn(dim))
        self.empty_item = nn.Parameter(
            torch.cat((torch.randn(dim) / math.sqrt(dim), torch.tensor((1.0, 0.0))))
        )
        self._start_as_the_mean()
        self.length: Callable[[Tensor], Tensor] | None = None
        if config.score == "cosine":
            of_users = Length(config.temperature, learned=config.learn_temperature)
            register_parametrization(self, "item_table", Length())
            register_parametrization(self, "empty_user", of_users)
            self.length = of_users.forward
        # States share one large direction, which is popularity; un-centred, G learns that
        # direction and little else.
        self.register_buffer("population_mean", torch.zeros(dim))
        # bool [I]: the item had a training event, so its row of the table means something.
        self.register_buffer("trained", torch.ones(num_items, dtype=torch.bool))
        # Share of g in the vector of a trained item, chosen on validation once training is over.
        self.register_buffer("generated_share", torch.zeros(()))
        # Weight and fading time in seconds of what `duality.intensity` adds to items and to users;
        # chosen on validation as well.
        for bias in ("popularity", "activity"):
            self.register_buffer(bias, torch.zeros(2, dtype=torch.float64))

    @property
    def dim(self) -> int:
        return self.config.dim

    @property
    def num_items(self) -> int:
        return len(self.trained)

    def item_rows(self, items: Tensor) -> Tensor:
        """Rows of the item table, of items int64 [...] alone: float [..., D]. The table itself is all of them, made at
        once where they are composed."""
        stored, shared, asked = raw(self, "item_table"), self._shared, items.reshape(-1)
        rows = functional.embedding(asked, stored) if shared is None else shared.of(stored, asked)
        for part in self._parts[shared is not None :]:
            rows = part.of(rows, asked) if isinstance(part, Composed) else part(rows)
        return rows.view(*items.shape, self.dim)

    @property
    def _parts(self) -> list[nn.Module]:
        """What makes the item table of its stored rows, in turn."""
        if not is_parametrized(self, "item_table"):
            return []
        return list(self.get_submodule("parametrizations.item_table").children())

    @property
    def _shared(self) -> SharedRows | None:
        return next((part for part in self._parts[:1] if isinstance(part, SharedRows)), None)

    @property
    def item_side(self) -> Encoder:
        """What reads the users of an item."""
        return self.user_encoder if self.item_encoder is None else self.item_encoder

    def user_rows(self, item_vectors: Tensor, layout: Layout | None) -> Tensor:
        """What F reads, float [P, D]: item vectors of about unit variance, with their owner, context and time gaps if
        these are asked for."""
        rows = item_vectors * math.sqrt(self.dim)
        if self.user_owner is not None and self.user_attributes is not None:
            rows = self.user_owner(rows, layout, self.user_attributes)
        rows = rows if self.user_context is None else self.user_context(rows, layout)
        return rows if self.user_gaps is None else self.user_gaps(rows, layout)

    @property
    def item_attributes(self) -> AttributeVectors | None:
        """What attributes add to the item table, if they do."""
        found = next((part for part in self._parts if isinstance(part, Composed)), None)
        return None if found is None else found.attributes

    def user_states(
        self, item_vectors: Tensor, layout: Layout, *, prefixes: bool = False, at: np.ndarray | None = None
    ) -> Tensor:
        """u after each event: item vectors float [P, D] (trained or generated) to float [P, D].

        Args:
            prefixes: every row as if its history ended there, for encoders to which that makes a difference
                (`Encoder.prefix_invariant`); without it only the newest row of each history is sure to be that.
            at: int64 [N], these rows alone, as if a history ended at each: float [N, D].
        """
        rows = self.user_rows(item_vectors, layout)
        return self.finished(self._encoded(self.user_encoder, rows, layout, prefixes, at))

    def masked_users(self, item_vectors: Tensor, layout: Layout, hidden: np.ndarray) -> Tensor:
        """u where items are hidden, made of the items around them: float [N, D]; `hidden` int64 [N]."""
        rows = self.user_rows(item_vectors, layout)
        with self._lowered(rows):
            states = self.user_encoder.masked(rows, layout, hidden)
        return self.finished(states.to(rows.dtype))

    def _lowered(self, rows: Tensor) -> torch.autocast:
        return torch.autocast(rows.device.type, dtype=self.low, enabled=self.low is not None)

    def _encoded(
        self, encoder: Encoder, rows: Tensor, layout: Layout, prefixes: bool, at: np.ndarray | None
    ) -> Tensor:
        with self._lowered(rows):
            alone = prefixes or at is not None
            states = prefix_states(encoder, rows, layout, at) if alone else encoder(rows, layout)
        return states.to(rows.dtype)

    def finished(self, encoded: Tensor) -> Tensor:
        """What F made, float [..., D], as the user it stands for: with the length of cosine scores, if these are asked."""
        return encoded if self.length is None else self.length(encoded)

    def _start_as_the_mean(self) -> None:
        with torch.no_grad():
            self.item_pool.weight.copy_(torch.eye(self.dim) / math.sqrt(self.dim))
        for unused in (self.item_head, self.item_level, self.item_partition):
            nn.init.zeros_(unused.weight)
            nn.init.zeros_(unused.bias)
        nn.init.ones_(self.item_partition.bias)

    def item_states(
        self, user_states: Tensor, layout: Layout, *, prefixes: bool = False, at: np.ndarray | None = None
    ) -> Tensor:
        """g after each user: states float [P, D] strictly before each meeting to float [P, D + 2].

        With what follows g, the partition and the level, an item scores <u, g> - partition log Z(u) + level.
        The level plays no part among the users of one item. `prefixes` and `at` as in `user_states`.
        """
        centred, number = user_states - self.population_mean, layout.positions + 1
        rows = centred if self.item_gaps is None else self.item_gaps(centred, layout)
        if self.item_owner is not None and (attributes := self.item_attributes) is not None:
            rows = self.item_owner(rows, layout, attributes)
        rows = rows if self.item_context is None else self.item_context(rows, layout)
        encoded = self._encoded(self.item_side, rows, layout, prefixes, at)
        means = running_means(centred, layout)
        if at is not None:
            means, number = means[torch.from_numpy(at).to(means.device)], number[at]
        made = self.item_pool(means) + self.item_head(encoded)
        users = torch.from_numpy(np.log1p(number)).to(made)[:, None]
        return torch.cat((made, self.item_partition(users), self.item_level(torch.cat((made, users), 1))), 1)

    def users_before(self, item_vectors: Tensor, layout: Layout, wanted: np.ndarray | None) -> Tensor:
        """u just before the events of `wanted` rows, int64 [W], or of all: float [W, D]."""
        if wanted is None:
            return before_all(self.user_states, item_vectors, self.empty_user, layout)
        return before_some(partial(self._users_at, item_vectors, layout), self.empty_user, layout, wanted)

    def items_before(self, user_states: Tensor, layout: Layout, wanted: np.ndarray | None) -> Tensor:
        """What `item_states` makes, just before the events of `wanted` rows, or of all: float [W, D + 2]."""
        if wanted is None:
            return before_all(self.item_states, user_states, self.empty_item, layout)
        return before_some(partial(self._items_at, user_states, layout), self.empty_item, layout, wanted)

    def _users_at(self, item_vectors: Tensor, layout: Layout, rows: np.ndarray) -> Tensor:
        return self.user_states(item_vectors, layout, at=rows)

    def _items_at(self, user_states: Tensor, layout: Layout, rows: np.ndarray) -> Tensor:
        return self.item_states(user_states, layout, at=rows)

    def log_partition(self, states: Tensor) -> Tensor:
        """log Z(u), float [P]: log-sum-exp of the scores of all trained items.

        <u, e> - log Z(u) is the log-probability of an item given the user, so scores compare
        across users. No gradient.
        """
        with torch.no_grad():
            return log_partition(states, self.item_table[: self.fitted])

    def grow(self, num_items: int, *, users: Coded | None = None, items: Coded | None = None) -> None:
        """Make room for items that came after training: each starts as the item without users, or, where items
        are made of attributes, as the mean of all but for its own. `users` and `items` are the codes of everybody now."""
        more, start, shared = num_items - self.num_items, self._start(), self._shared
        self.trained = torch.cat((self.trained, self.trained.new_zeros(more)))
        if shared is not None:
            shared.replace(~self.trained, start)
        else:
            table = raw(self, "item_table")
            table.data = torch.cat((table.data, start.expand(more, -1)))
        for attributes, coded in ((self.user_attributes, users), (self.item_attributes, items)):
            if attributes is not None and coded is not None:
                attributes.grow(coded)

    def settle(self) -> None:
        """Where items are made of attributes, one that training never saw is the mean of all but for these."""
        shared = self._shared
        if shared is not None:
            shared.replace(~self.trained, self._start())
        elif self.item_owner is not None:
            raw(self, "item_table").data[~self.trained] = self._start()

    def _start(self) -> Tensor:
        """What items start as that training never saw, float [D]."""
        if self.item_owner is None:
            return self.empty_item.detach()[: self.dim]
        rows, shared = raw(self, "item_table").data, self._shared
        seen = torch.nonzero(self.trained).squeeze(1)
        return (rows[seen] if shared is None else shared.of(rows, seen).detach()).mean(0)


def running_means(rows: Tensor, layout: Layout) -> Tensor:
    """Mean of each row and those before it in its sequence: float [P, D] to float [P, D].

    Sums run in float64: over a packed batch float32 would lose the short sequences at its end.
    """
    total = rows.double().cumsum(0)
    device = rows.device
    starts = torch.from_numpy(np.repeat(layout.offsets[:-1], layout.lengths)).to(device)
    before = torch.cat((total.new_zeros(1, rows.shape[1]), total))[starts]
    count = torch.from_numpy(layout.positions + 1).to(device)
    return ((total - before) / count[:, None]).to(rows.dtype)


def before_some(
    states_at: Callable[[np.ndarray], Tensor], empty: Tensor, layout: Layout, wanted: np.ndarray
) -> Tensor:
    """The state just before some rows' events, float [W, D].

    Args:
        states_at: rows int64 [N] to the states after their events, float [N, D].
        empty: float [D].
        wanted: int64 [W], rows.
    """
    found, later = empty.expand(len(wanted), -1), np.flatnonzero(layout.positions[wanted])
    if not len(later):
        return found
    return found.index_copy(0, torch.from_numpy(later).to(empty.device), states_at(wanted[later] - 1))


def before_all(
    encode: Callable[[Tensor, Layout], Tensor], rows: Tensor, empty: Tensor, layout: Layout
) -> Tensor:
    """The state just before each row's event, in one pass: that of the rows before it, or `empty`, float [P, W].

    The newest row of each sequence is left out of the pass: nothing asks what comes after it, and encoders that count
    places from the newest row are trained at the places where they will be asked.

    Args:
        encode: rows float [p, D] and their layout to states float [p, W].
        rows: float [P, D].
        empty: float [W].
    """

    def states(earlier: np.ndarray) -> Tensor:
        lengths = layout.lengths[layout.lengths > 1] - 1
        return encode(rows[torch.from_numpy(earlier).to(rows.device)], layout.rows(lengths, earlier))

    return before_some(states, empty, layout, np.arange(layout.num_rows))
