"""What a search over inverted lists is going to do, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from duality.index.structures.candidates import Candidates
from duality.index.structures.list_filters import likely_probes, scanning_pays
from duality.index.structures.matrix import Matrix32
from duality.index.structures.plan import Plan

if TYPE_CHECKING:
    from duality.index.structures.ivf import Ivf


def plan_lists(
    structure: Ivf, k: int, matches: int | None, queries: Matrix32 | None, candidates: Candidates | None
) -> Plan:
    """As `Structure.plan`."""
    if matches is None:
        return _unfiltered(structure, k)
    if queries is not None and candidates is not None and len(queries) and len(candidates):
        return _filtered(structure, k, queries, candidates)
    return _expected(structure, k, matches, 1 if queries is None else len(queries), candidates)


def _unfiltered(structure: Ivf, k: int) -> Plan:
    probes = structure.probing.probes(k)
    rows = -(-structure.count * probes // structure.nlist)
    reason = f"no filter: the nearest {probes:,} of {structure.nlist:,} lists hold about {rows:,} vectors"
    return Plan("probe", reason, rows, _settings(structure, probes))


def _filtered(structure: Ivf, k: int, queries: Matrix32, candidates: Candidates) -> Plan:
    k = min(k, len(candidates))
    if scanning_pays(structure, len(queries), k, len(candidates), candidates.uses):
        return structure._plan_scan(len(candidates), len(queries), candidates)
    # What the second look will add, guessed from a sample.
    deep = structure.probing.lists(structure.depths(queries, k, candidates))
    lists = round(float(np.maximum(deep, structure.probing.probes(k)).mean()))
    covered = -(-len(candidates) * lists // structure.nlist)
    reason = (
        f"{len(candidates):,} of {structure.count:,} vectors match: {lists:,} of {structure.nlist:,} lists"
        f" hold about {covered:,} near a query"
    )
    return Plan("probe", reason, covered, _settings(structure, lists))


def _expected(structure: Ivf, k: int, matches: int, queries: int, candidates: Candidates | None) -> Plan:
    """Without queries: as if matches lay evenly."""
    if not matches:
        return structure._plan_scan(matches, queries, candidates)
    k = min(k, matches)
    if scanning_pays(structure, queries, k, matches, candidates.uses if candidates else 1):
        return structure._plan_scan(matches, queries, candidates)
    probes = likely_probes(structure, k, matches)
    covered = -(-matches * probes // structure.nlist)
    share = f"{matches:,} of {structure.count:,} vectors match"
    reason = f"{share}: about {probes:,} of {structure.nlist:,} lists hold {covered:,} near a query"
    return Plan("probe", reason, covered, _settings(structure, probes))


def _settings(structure: Ivf, probes: int) -> dict[str, int]:
    settings = {"nprobe": probes}
    return {**settings, "rerank": structure.rerank()} if structure.codec.compressed else settings
