"""Encoders by the name a recipe gives them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from duality.encoders.base import Encoder
from duality.encoders.bert4rec import BERT4Rec, BERT4RecConfig
from duality.encoders.denoiser import RecDenoiser, RecDenoiserConfig
from duality.encoders.fourier import Fourier, FourierConfig
from duality.encoders.hstu import HSTU, HSTUConfig
from duality.encoders.sasrec import SASRec, SASRecConfig
from duality.encoders.transformer import LiGR, LiGRConfig, Llama, LlamaConfig, Transformer, TransformerConfig
from duality.encoders.vaswani import Vaswani, VaswaniConfig
from duality.errors import ConfigError

ENCODERS: dict[str, type] = {
    "transformer": Transformer,
    "ligr": LiGR,
    "llama": Llama,
    "vaswani": Vaswani,
    "sasrec": SASRec,
    "bert4rec": BERT4Rec,
    "denoiser": RecDenoiser,
    "hstu": HSTU,
    "fourier": Fourier,
}

# `[model.user_encoder]` and `[model.item_encoder]` of a recipe: `name` decides which keys there are.
AnyConfig = (
    TransformerConfig
    | LiGRConfig
    | LlamaConfig
    | VaswaniConfig
    | SASRecConfig
    | BERT4RecConfig
    | RecDenoiserConfig
    | HSTUConfig
    | FourierConfig
)
EncoderConfig = Annotated[AnyConfig, Field(discriminator="name")]


def with_name(section: Any) -> Any:
    """A section of a recipe with the encoder's name, which may be left out."""
    return {"name": "transformer", **section} if isinstance(section, dict) else section


def make_encoder(dim: int, config: AnyConfig, section: str = "encoder") -> Encoder:
    """A freshly initialised encoder of `dim` dimensions.

    Args:
        section: of a recipe, for messages.

    Raises:
        ConfigError: these dimensions and settings do not go together.
    """
    try:
        encoder: Encoder = ENCODERS[config.name](dim, config)
    except ValueError as error:
        raise ConfigError(f"model.dim and {section} ({config.name}): {error}") from None
    return encoder
