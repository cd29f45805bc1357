"""Names of samplers in recipes and options: text in, a sampler of `samplers.py` out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from duality.errors import InputError, suggestion
from duality.samplers import Hard, InBatch, Mixture, Popularity, Sampler, Searchable, Uniform

NAMES = ("uniform", "popularity:0.75", "batch", "hard:100", "mixture:0.5*uniform+0.5*batch")


@dataclass(frozen=True)
class SamplerSpec:
    """A parsed sampler name: its kind, its number (BETA or K) and, for a mixture, its weighted parts."""

    kind: str
    number: float = 0.0
    parts: tuple[tuple[float, SamplerSpec], ...] = ()


def parse_sampler(text: str) -> SamplerSpec:
    """Read `uniform`, `popularity:0.75`, `batch`, `hard:100` or `mixture:0.5*uniform+0.5*batch`.

    Raises:
        InputError: anything else.
    """
    kind, _, rest = text.partition(":")
    if text in ("uniform", "batch"):
        return SamplerSpec(text)
    if kind == "popularity" and (beta := _number(rest)) is not None:
        return SamplerSpec(kind, beta)
    if kind == "hard" and rest.isascii() and rest.isdigit() and int(rest) > 0:
        return SamplerSpec(kind, int(rest))
    if kind == "mixture" and rest:
        return SamplerSpec(kind, parts=tuple(_weighted(part, text) for part in rest.split("+")))
    near = suggestion(text, NAMES)
    raise InputError(
        f"sampler '{text}'{near}: write uniform, popularity:BETA, batch, hard:K or mixture:W*SAMPLER+W*SAMPLER"
    )


def _weighted(text: str, whole: str) -> tuple[float, SamplerSpec]:
    weight, _, name = text.partition("*")
    value = _number(weight)
    if not value or name.startswith("mixture"):
        raise InputError(f"sampler '{whole}': '{text}' is not a weight above 0, a '*' and a plain sampler")
    return value, parse_sampler(name)


def _number(text: str) -> float | None:
    """A finite number of at least 0, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def make_sampler(spec: SamplerSpec | str, counts: NDArray[Any], side: Searchable | None = None) -> Sampler:
    """The sampler that a specification names.

    Args:
        spec: from `parse_sampler`, or its text.
        counts: [N], events per row.
        side: the index behind `hard`, whose ids are rows.

    Raises:
        InputError: not a sampler, or `hard` without an index.
    """
    spec = parse_sampler(spec) if isinstance(spec, str) else spec
    if spec.kind == "uniform":
        return Uniform(len(counts))
    if spec.kind == "popularity":
        return Popularity(counts, spec.number)
    if spec.kind == "batch":
        return InBatch(counts)
    if spec.kind == "mixture":
        weights, parts = zip(*spec.parts, strict=True)
        return Mixture([make_sampler(part, counts, side) for part in parts], weights)
    if side is None:
        raise InputError(f"sampler hard:{spec.number:g} needs an index to search")
    return Hard(len(counts), side, int(spec.number))
