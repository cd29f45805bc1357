"""What a search is going to do, and why, for `--explain`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Plan:
    """How a search is answered.

    Args:
        strategy: "scan" (every live vector), "gather and scan" (the matching vectors only),
            "probe" (some inverted lists) or "graph".
        reason: one sentence, with the numbers that decided.
        candidates: vectors scored per query, expected.
        settings: what the strategy uses (`nprobe`, `ef_search`, `rerank`, …).
    """

    strategy: str
    reason: str
    candidates: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "settings": dict(self.settings)}
