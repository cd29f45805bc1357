"""Which losses train a model, and how much each counts."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from duality.config import Config
from duality.errors import InputError
from duality.sampler_specs import parse_sampler


class LossConfig(Config):
    """`[loss]` of a recipe: weights, sample sizes, temperatures. A weight of 0 skips the term."""

    next_item: float = 1.0
    users_compete: float = 0.5
    users_compete_on: Literal["log p", "score"] = "log p"
    next_user: float = 0.5
    next_user_trained: float = 0.0  # the same, asked of the item's trained vector
    items_compete: float = 0.2
    cycle_item: float = 0.05
    cycle_user: float = 0.1
    negatives: int = 0  # negatives drawn per batch and shared by its rows; 0 takes every item
    own_negatives: int = 0  # drawn for each row alone, as published; 0 shares `negatives`
    unmet_negatives: bool = False  # own negatives are no items that the user is trained on, as SASRec's
    sampler: str = "uniform"  # who is drawn: uniform, popularity:BETA, batch, hard:K, mixture:W*A+W*B
    kind: Literal["softmax", "bce", "gbce", "bpr"] = "softmax"  # of the next-item loss
    trust: float = 0.0  # rows of the next-item softmax weigh p^trust, p their item's probability
    per_positive: float = 1.0  # negatives that weigh as much as a positive in bce and gbce
    calibration: float = 0.75  # t of gbce: 0 is bce
    queries: int = 1024  # rows sampled for each user-side competition
    item_queries: int = 512  # rows sampled from the item batch
    cycle_rows: int = 512  # rows of the user batch that are remade from generated items
    temperature: float = 0.07  # of the cycles' cosines
    live_users: bool = True  # whether the item side's gradients reach F and the item table
    rivals: int = 128  # users of the same moment who compete for an item, shared by a group of queries
    rival_groups: int = 16

    @property
    def two_sided(self) -> bool:
        """Whether any term needs the item encoder."""
        return any(
            (self.next_user, self.next_user_trained, self.items_compete, self.cycle_item, self.cycle_user)
        )

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, text: str) -> str:
        try:
            parse_sampler(text)
        except InputError as error:
            raise ValueError(str(error)) from None
        return text

    @model_validator(mode="after")
    def _something_to_draw(self) -> LossConfig:
        if self.sampler != "uniform" and self.negatives < 1:
            raise ValueError(f"sampler {self.sampler} draws nothing while negatives is 0: set loss.negatives")
        if self.unmet_negatives and not self.own_negatives:
            raise ValueError("unmet_negatives are drawn for each row: set loss.own_negatives")
        if self.own_negatives and self.trust:
            raise ValueError("trust weighs rows that share their negatives: set own_negatives or trust to 0")
        return self
