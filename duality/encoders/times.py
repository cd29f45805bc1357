"""Spans of time in buckets of their logarithm.

Source: the published code of HSTU (Zhai et al. 2024), whose buckets these are.
"""

from __future__ import annotations

from torch import Tensor

BUCKETS = 128


def buckets(microseconds: Tensor, highest: int) -> Tensor:
    """floor(log(seconds) / .301), at least 0 and at most `highest`: about a bucket for every 35% more."""
    seconds = (microseconds.double() / 1e6).abs().clamp(min=1.0)
    return (seconds.log() / 0.301).long().clamp(max=highest)
