"""Matrix factorisation baselines of the `implicit` library: ALS (weighted) and BPR.

Both directions are one inner product of the same factors. A row without a training event comes below
all others.

Needs:  the extra `baselines`.
Shapes: B queries of a block, N rows of the asked side, F factors.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from duality.errors import InputError
from duality.evaluation.queries import USER_TO_ITEM, Queries, World, pair_matrix

FACTORS, EPOCHS = 64, {"als": 15, "bpr": 100}
EXTRA = 'implicit is not installed: pip install "duality[baselines]"'


def installed() -> bool:
    """Whether the library is there."""
    return find_spec("implicit") is not None


class Factorised:
    """ALS (Hu, Koren & Volinsky 2008) or BPR (Rendle et al. 2009), fitted on training pairs.

    Args:
        world: what may be known.
        kind: "als" or "bpr".
        seed: of the initial factors and of BPR's draws.
        threads: of the fit.

    Raises:
        InputError: the library is not installed.
    """

    def __init__(self, world: World, kind: str, *, seed: int = 0, threads: int = 1) -> None:
        if not installed():
            raise InputError(EXTRA)
        self.name = kind
        pairs = pair_matrix(world, world.train, USER_TO_ITEM).astype(np.float32)
        model = _model(kind, seed, threads)
        model.fit(pairs, show_progress=False)
        self.users, self.items = np.asarray(model.user_factors), np.asarray(model.item_factors)
        self._unknown_users = np.diff(pairs.indptr) == 0
        self._unknown_items = np.bincount(pairs.indices, minlength=pairs.shape[1]) == 0

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, N]."""
        if direction == USER_TO_ITEM:
            scores = self.users[queries.user[rows]] @ self.items.T
            scores[:, self._unknown_items] = -np.inf
            return scores
        scores = self.items[queries.item[rows]] @ self.users.T
        scores[:, self._unknown_users] = -np.inf
        return scores


def _model(kind: str, seed: int, threads: int) -> Any:
    common = {"factors": FACTORS, "iterations": EPOCHS[kind], "random_state": seed, "num_threads": threads}
    if kind == "als":
        from implicit.cpu.als import AlternatingLeastSquares

        return AlternatingLeastSquares(regularization=0.05, alpha=1.0, **common)
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    return BayesianPersonalizedRanking(learning_rate=0.05, regularization=0.01, **common)
