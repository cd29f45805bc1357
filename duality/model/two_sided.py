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

import torch
from torch import Tensor, nn

from duality.config import Config
from duality.encoders.base import Layout
from duality.encoders.registry import EncoderConfig, make_encoder


class ModelConfig(Config):
    """`[model]` of a recipe."""

    dim: int = 64
    user_encoder: EncoderConfig = EncoderConfig()
    item_encoder: EncoderConfig = EncoderConfig()


class TwoSided(nn.Module):
    """Item table E, user encoder F, item encoder G and the states of empty histories."""

    population_mean: Tensor
    trained: Tensor

    def __init__(self, num_items: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.item_table = nn.Parameter(torch.randn(num_items, dim) / math.sqrt(dim))
        self.user_encoder = make_encoder(dim, config.user_encoder)
        self.item_encoder = make_encoder(dim, config.item_encoder)
        self.item_head = nn.Linear(dim, dim)
        self.empty_user = nn.Parameter(torch.randn(dim))
        self.empty_item = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        # States share one large direction, which is popularity; un-centred, G learns that
        # direction and little else.
        self.register_buffer("population_mean", torch.zeros(dim))
        # bool [I]: the item had a training event, so its row of the table means something.
        self.register_buffer("trained", torch.ones(num_items, dtype=torch.bool))

    @property
    def dim(self) -> int:
        return self.config.dim

    def user_states(self, item_vectors: Tensor, layout: Layout) -> Tensor:
        """u after each event: item vectors float [P, D] (trained or generated) to float [P, D]."""
        return self.user_encoder(item_vectors * math.sqrt(self.dim), layout)

    def item_states(self, user_states: Tensor, layout: Layout) -> Tensor:
        """g after each user: states float [P, D] strictly before each meeting to float [P, D]."""
        return self.item_head(self.item_encoder(user_states - self.population_mean, layout))

    def log_partition(self, states: Tensor, *, block: int = 2048) -> Tensor:
        """log Z(u), float [P]: log-sum-exp of the scores of all trained items.

        <u, e> - log Z(u) is the log-probability of an item given the user, so scores compare
        across users. No gradient.
        """
        with torch.no_grad():
            return torch.cat([(part @ self.item_table.T).logsumexp(1) for part in states.split(block)])


def before_each(states: Tensor, empty: Tensor, layout: Layout) -> Tensor:
    """The state just before each row's event: the previous row's, or `empty` at a history's start.

    Args:
        states: float [P, D], states after each event.
        empty: float [D].
        layout: where the histories lie.

    Returns:
        float [P, D]; row r holds nothing of event r or later.
    """
    shifted = torch.cat((empty[None], states[:-1]))
    first = torch.zeros(states.shape[0], 1, dtype=torch.bool, device=states.device)
    first[torch.from_numpy(layout.offsets[:-1]).to(states.device)] = True
    return torch.where(first, empty, shifted)
