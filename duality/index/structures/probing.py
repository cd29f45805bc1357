"""Which lists a query visits.

Without a filter: the nearest `nprobe`. With one: as many as the depth of its matches below the query
asks for, those without matches left out. Matches that are far from the query, though common
elsewhere, are then looked for everywhere, or scanned.

Shapes: Q queries, L lists, W lists ranked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duality.index.structures import costs
from duality.index.structures.candidates import Candidates
from duality.index.structures.checks import integer_in
from duality.index.structures.coarse import Nearness
from duality.index.structures.curves import Curve, curve_in
from duality.index.structures.matrix import Keys, Matrix32

if TYPE_CHECKING:
    from duality.index.structures.ivf import Ivf

# Matches that the visited lists must hold at least, per result.
COVER = 3
TUNED_K = 10
# Reading so many rows takes about as long as a call that reads none.
CHEAP_ROWS = 2_048


class Probing:
    """How many lists to visit.

    Args:
        settings: `reach`, and `search` with `nprobe`, the `nlist` it was chosen for and its `k`.
        nlist: L.

    Raises:
        ValueError: a setting is missing or out of range.
    """

    def __init__(self, settings: Mapping[str, Any], nlist: int) -> None:
        self.reach: Curve = curve_in(settings, "reach", 1.0)
        search = settings.get("search") or {}
        self.nlist, self.tuned_k = nlist, TUNED_K
        share = float(self.reach.at(TUNED_K))
        if search.get("nprobe"):
            self.tuned_k = integer_in({"k": TUNED_K, **search}, "k", 1, 1 << 30)
            lists = integer_in({"nlist": nlist, **search}, "nlist", 1, 1 << 30)
            share = integer_in(search, "nprobe", 1, 1 << 30) / lists
        # The curve keeps its form; what was tuned moves it up or down.
        self._factor = share / float(self.reach.at(self.tuned_k))
        self._tuned = bool(search.get("nprobe"))
        built = integer_in({"built": 0, **settings}, "built", 0, 1 << 40)
        self._cheap = min(nlist, math.ceil(CHEAP_ROWS * nlist / max(built, 1)))
        # Working it out takes as long as a small search.
        self._by_k: dict[int, int] = {}

    def probes(self, k: int, setting: Mapping[str, Any] | None = None) -> int:
        """Lists to visit for k results without a filter, 1 <= probes <= L."""
        if setting and setting.get("nprobe"):
            return max(1, min(int(setting["nprobe"]), self.nlist))
        held = self._by_k.get(k)
        if held is None:
            held = int(self.lists(np.float64(max(k, self.tuned_k))))
            # What costs no more than the call itself: small sides are searched nearly whole.
            held = self._by_k[k] = held if self._tuned else max(held, self._cheap)
        return held

    def lists(self, ranks: NDArray[np.float64] | np.float64) -> NDArray[np.int64]:
        """Lists to visit so that the nearest `ranks` are met."""
        shares = np.minimum(self.reach.at(np.maximum(ranks, 1.0)) * self._factor, 1.0)
        return np.ceil(shares * self.nlist - 1e-9).astype(np.int64).clip(1, self.nlist)


def probing_cost(structure: Ivf, needed: int, k: int, matches: int) -> float:
    """Nanoseconds of visiting `needed` lists for k results when `matches` vectors may be returned."""
    rows = structure.count * needed / structure.nlist
    ranking = costs.score(structure.nlist, structure.dim) + costs.rank(structure.nlist)
    again = k * structure.rerank() if structure.codec.compressed else 0
    reading = costs.gather(again, structure.dim) + costs.score(again, structure.dim)
    share = matches / max(structure.count, 1)
    return ranking + reading + costs.listed(rows, share, structure.codec.row_cost)


def visits_among(structure: Ivf, near: Nearness, k: int, candidates: Candidates, probes: int) -> Keys:
    """Lists to visit, int64 [Q, W], -1 for none: of the nearest `probes`, those with candidates.

    More are visited where these hold fewer than some candidates per result.
    """
    matching = matches_per_list(structure, candidates)
    wanted = min(COVER * k, len(candidates))
    # Twice what it takes on average: ranking all lists costs as much as searching some.
    likely = 2 * -(-wanted * structure.nlist // len(candidates)) + 2
    number = min(max(probes, likely), structure.nlist)
    if len(near) == 1:
        found = _visits_of_one(near, matching, number, wanted, probes)
        return np.array([found or [-1]], np.int64)
    groups = near.nearest(number)
    inside = matching[groups]
    needed = np.maximum(_covering(inside, wanted), probes)
    short = (needed > groups.shape[1]).nonzero()[0]
    if len(short):
        further = near.of(short).nearest(structure.nlist)
        needed[short] = np.maximum(_covering(matching[further], wanted), probes)
        wider = np.full((len(groups), int(needed.max())), -1, np.int64)
        wider[:, : groups.shape[1]] = groups
        wider[short] = further[:, : wider.shape[1]]
        groups, inside = wider, matching[wider]
    passed = (inside == 0) | (np.arange(groups.shape[1]) >= needed[:, None])
    groups[passed] = -1
    return packed(groups)


def _visits_of_one(near: Nearness, matching: Matrix32, number: int, wanted: int, probes: int) -> list[int]:
    """As `visits_among`, for one query, of the nearest `number` and then of all: numpy takes far longer."""
    groups = near.nearest(number)[0]
    visits: list[int] = []
    met = 0.0
    for place, (group, inside) in enumerate(zip(groups.tolist(), matching[groups].tolist())):
        if met >= wanted and place >= probes:
            return visits
        if inside:
            visits.append(group)
            met += inside
    if met >= wanted or number == len(matching):
        return visits
    return _visits_of_one(near, matching, len(matching), wanted, probes)


def visits_of_filled(structure: Ivf, queries: Matrix32, probes: int) -> Keys:
    """The nearest lists [Q, W] that hold as many live vectors as `probes` lists do on average."""
    sizes = structure.sizes()
    filled = max(1, int(np.count_nonzero(sizes)))
    groups = structure.coarse.rank_lists(queries, min(structure.nlist, 4 * probes + 64))
    wanted = -(-structure.count * min(probes, filled) // filled)
    needed = _covering(sizes[groups], wanted)
    if needed.max() > groups.shape[1]:
        groups = structure.coarse.rank_lists(queries, structure.nlist)
        needed = _covering(sizes[groups], wanted)
    visited = (sizes[groups] > 0) & (np.arange(groups.shape[1]) < needed[:, None])
    return packed(np.where(visited, groups, -1))


def matches_per_list(structure: Ivf, candidates: Candidates) -> Matrix32:
    """Whole numbers, float32 [L]; kept with the candidates."""
    held = candidates.derived.get("per_list")
    if held is None:
        groups = structure.lists.groups[candidates.positions]
        held = np.bincount(groups, minlength=structure.nlist).astype(np.float32)
        candidates.derived["per_list"] = held
    return held


def _covering(inside: Keys | Matrix32, wanted: int) -> Keys:
    """Lists [Q] until `wanted` matches are met; one more than there are when they are not."""
    return (inside.cumsum(axis=1) < wanted).sum(axis=1) + 1


def packed(groups: Keys) -> Keys:
    """Lists moved to the front of each row, in order, so that no column is all -1."""
    used = (groups >= 0).sum(axis=1)
    width = max(1, int(used.max(initial=0)))
    if width == groups.shape[1]:
        return np.ascontiguousarray(groups)
    order = np.argsort(groups < 0, axis=1, kind="stable")[:, :width]
    return np.ascontiguousarray(np.take_along_axis(groups, order, 1))
