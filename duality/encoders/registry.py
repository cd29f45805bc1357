"""Encoders by the name a recipe gives them."""

from __future__ import annotations

from typing import Literal

from duality.encoders.base import Encoder
from duality.encoders.transformer import Transformer, TransformerConfig


class EncoderConfig(TransformerConfig):
    """`[model.user_encoder]` and `[model.item_encoder]` of a recipe."""

    name: Literal["transformer"] = "transformer"


def make_encoder(dim: int, config: EncoderConfig) -> Encoder:
    """A freshly initialised encoder of `dim` dimensions."""
    return Transformer(dim, config)
