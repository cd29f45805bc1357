"""Filtered search of inverted lists: the nearest lists, then those that hold something better, or all matches.

Shapes: Q queries, k results, L lists, M matches, D dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from duality.index.structures import costs
from duality.index.structures.base import Setting
from duality.index.structures.candidates import Candidates
from duality.index.structures.matrix import Keys, Matrix32
from duality.index.structures.probing import packed, probing_cost, visits_among
from duality.index.structures.results import Found, merged
from duality.index.structures.sampling import evenly
from duality.index.structures.second_look import missing_lists

if TYPE_CHECKING:
    from duality.index.structures.ivf import Ivf

# Share of the lists beyond which codes cannot tell the best: vectors are then scored instead.
DEEP = 0.25
# In a large batch, one query in so many shows whether lists are worth visiting for the others.
PILOT, LARGE = 8, 64

# Numbers of queries and results that a filter keeps decisions for.
DECISIONS = 64

Scanned = NDArray[np.bool_]


def find_among(
    structure: Ivf, queries: Matrix32, k: int, candidates: Candidates, setting: Setting | None
) -> Found:
    """Best k positions among candidates. 1 <= k <= len(candidates)."""
    if _scanning_pays(structure, len(queries), k, candidates):
        return structure._scan_candidates(queries, k, candidates)
    if len(queries) < LARGE:
        return _look_twice(structure, queries, k, candidates, setting)[0]
    pilot = np.arange(len(queries)) % PILOT == 0
    found, scanned = _look_twice(structure, queries[pilot], k, candidates, setting)
    if 2 * np.count_nonzero(scanned) > len(scanned):
        others = structure._scan_candidates(queries[~pilot], k, candidates)
    else:
        others = _look_twice(structure, queries[~pilot], k, candidates, setting)[0]
    scores = np.empty((len(queries), k), np.float32)
    positions = np.empty((len(queries), k), np.int64)
    scores[pilot], positions[pilot] = found
    scores[~pilot], positions[~pilot] = others
    return scores, positions


def scanning_pays(structure: Ivf, queries: int, k: int, matches: int, uses: int) -> bool:
    """Whether scoring every match costs less than lists would, if matches lay evenly.

    Args:
        structure: the lists.
        queries: Q.
        k: results per query.
        matches: M.
        uses: searches that share a copy of the matches.
    """
    probing = probing_cost(structure, likely_probes(structure, k, matches), k, matches)
    scan = costs.scan(matches, structure.dim, queries) + _copying(structure, queries * uses, matches)
    return scan <= probing + costs.LISTS_CALL / queries


def _scanning_pays(structure: Ivf, queries: int, k: int, candidates: Candidates) -> bool:
    """`scanning_pays`, worked out once per filter: it takes as long as scoring a few hundred matches."""
    decided = candidates.derived.setdefault("scanning pays", {})
    asked = (structure.probing, queries, k)
    held: bool | None = decided.get(asked)
    if held is None:
        held = scanning_pays(structure, queries, k, len(candidates), candidates.uses)
        if len(decided) < DECISIONS:
            decided[asked] = held
    return held


def likely_probes(structure: Ivf, k: int, matches: int) -> int:
    """Lists that hold the best k of M matches, if matches lie evenly."""
    rank = np.float64(evenly(k, matches, structure.count))
    return max(structure.probing.probes(k), int(structure.probing.lists(rank)))


def _copying(structure: Ivf, uses: int, matches: int) -> float:
    """The part of each of so many queries in copying the matches out."""
    return costs.gather(matches, structure.dim) / max(uses, 1)


def _look_twice(
    structure: Ivf, queries: Matrix32, k: int, candidates: Candidates, setting: Setting | None
) -> tuple[Found, Scanned]:
    """Best positions, and which queries [Q] had all matches scored."""
    near = structure.coarse.nearness(queries)
    groups = visits_among(structure, near, k, candidates, structure.probing.probes(k, setting))
    scores, positions = structure._search_lists(queries, k, groups, candidates, setting)
    more = missing_lists(structure, queries, k, candidates, near, groups, scores[:, -1])
    if more is None:
        return (scores, positions), np.zeros(len(queries), np.bool_)
    numbers = (more >= 0).sum(axis=1)
    again = numbers > 0
    scanned = again & _too_many(structure, numbers, candidates)
    again &= ~scanned
    if scanned.any():
        scores[scanned], positions[scanned] = structure._scan_candidates(queries[scanned], k, candidates)
    if again.any():
        first = scores[again], positions[again]
        second = structure._search_lists(queries[again], k, packed(more[again]), candidates, setting)
        # Vectors that are too long for the lists come with every search.
        seen = (second[1][:, :, None] == first[1][:, None, :]).any(axis=2)
        second = second[0], np.where(seen, -1, second[1])
        scores[again], positions[again] = merged(first, second, k)
    return (scores, positions), scanned


def _too_many(structure: Ivf, numbers: Keys, candidates: Candidates) -> Scanned:
    """Whether visiting so many lists [Q] costs more than scoring all matches."""
    share = len(candidates) / structure.count
    visiting = costs.listed(structure.count / structure.nlist, share, structure.codec.row_cost) * numbers
    scan = costs.scan(len(candidates), structure.dim, len(numbers))
    scan += _copying(structure, len(numbers) * candidates.uses, len(candidates))
    deep = numbers > (DEEP if structure.codec.compressed else 1.0) * structure.nlist
    return (visiting > scan) | deep
