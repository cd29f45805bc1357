"""Scoring one part of the users: pairs worth keeping, counts of the funnel, and who was kept out.

A shard is some of the blocks of the population. It depends on nothing but the run's inputs, is written whole or not
at all, and is found done when it is asked for again.

Writes: a folder with `shard.json`, and for each of KINDS its users' rows and values or reasons, campaign by campaign.
Cost:   one block of vectors and its scores in memory; a pass over the vectors.
Shapes: C campaigns, n users of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from duality.artifacts import atomic_folder, read_json, write_json
from duality.errors import InputError
from duality.runtime import progress
from duality.targeting.eligibility import ELIGIBLE, REASONS
from duality.targeting.plan import Plan

MARKER, FORMAT = "shard.json", 1
# Pairs that may be assigned; pairs that only the include rule keeps out; pairs that may not.
PAIRS, OTHERS, EXCLUDED = KINDS = ("pairs", "others", "excluded")


@dataclass(frozen=True)
class Part:
    """Shard `number` of `count`, from 1."""

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> Part:
        """`2/8`.

        Raises:
            InputError: not two numbers, or not one of so many.
        """
        first, _, second = text.partition("/")
        if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
            raise InputError(f"--shard {text}: give it as NUMBER/COUNT, the first is 1/{second or 'COUNT'}")
        return Part(int(first), int(second))

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.count}"

    def blocks(self, total: int) -> range:
        """Its share of so many blocks."""
        return range((self.number - 1) * total // self.count, self.number * total // self.count)


def score_shard(plan: Plan, part: Part, folder: Path, run: str) -> bool:
    """Score the users of a shard into `folder`; False if that was done before.

    Args:
        run: identity of the run's inputs.
    """
    if (folder / MARKER).exists() and Shard(folder).run == run:
        return False
    blocks = part.blocks(plan.people.num_blocks)
    found = _Found(len(plan.file.campaigns))
    with progress(len(blocks), f"shard {part.number}/{part.count}", unit="blocks") as bar:
        for number in blocks:
            _score_block(plan, number, found)
            bar.advance()
    with atomic_folder(folder, marker=MARKER) as temporary:
        offsets = {kind: _write(temporary, kind, parts) for kind, parts in found.parts.items()}
        about = {"format": FORMAT, "run": run, "blocks": [blocks.start, blocks.stop]}
        write_json(temporary / MARKER, {**about, "counts": found.counts.tolist(), "offsets": offsets})
    return True


class _Found:
    """What blocks gave so far."""

    def __init__(self, campaigns: int) -> None:
        self.counts = np.zeros((campaigns, len(REASONS)), np.int64)
        self.parts: dict[str, list[list[tuple[np.ndarray, np.ndarray]]]] = {
            kind: [[] for _ in range(campaigns)] for kind in KINDS
        }

    def add(self, kind: str, campaign: int, rows: np.ndarray, what: np.ndarray) -> None:
        if len(rows):
            self.parts[kind][campaign].append((rows, what))


def _score_block(plan: Plan, number: int, found: _Found) -> None:
    rows, values = plan.values_of(number)
    kept = values >= plan.keep[:, None]
    # Per campaign only where there is something to ask: a call for each costs as much as comparing its values.
    found.counts[np.delete(np.arange(len(values)), plan.restricted), ELIGIBLE] += values.shape[1]
    for campaign in plan.restricted:
        worth = values[campaign]
        reasons = plan.reasons_of(campaign, rows, worth)
        assert reasons is not None
        found.counts[campaign] += np.bincount(reasons, minlength=len(REASONS))
        kept[campaign] &= reasons == ELIGIBLE
        outside = np.flatnonzero(reasons)
        found.add(EXCLUDED, campaign, rows.start + outside, reasons[outside])
        others = plan.others(campaign, worth, reasons)
        found.add(OTHERS, campaign, rows.start + others, worth[others])
    # Of all campaigns at once: a call for each costs more than the comparison.
    place = np.flatnonzero(kept)
    size = kept.shape[1]
    worth, user = values.reshape(-1)[place], (place % size + rows.start).astype(np.int32)
    ends = np.searchsorted(place, np.arange(1, len(kept) + 1) * size).tolist()
    for campaign, (first, last) in enumerate(pairwise((0, *ends))):
        found.add(PAIRS, campaign, user[first:last], worth[first:last])


def _write(folder: Path, kind: str, parts: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]) -> list[int]:
    """One file of rows and one of what belongs to them; returns where the campaigns begin, and the end."""
    dtype = np.int8 if kind == EXCLUDED else np.float32
    with open(folder / f"{kind}.rows.i32", "wb") as rows, open(folder / f"{kind}.values", "wb") as values:
        offsets = [0]
        for campaign in parts:
            if campaign:
                np.concatenate([row for row, _ in campaign], dtype="<i4", casting="same_kind").tofile(rows)
                np.concatenate([value for _, value in campaign], dtype=dtype).tofile(values)
            offsets.append(offsets[-1] + sum(len(row) for row, _ in campaign))
    return offsets


class Shard:
    """A shard that was scored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about: dict[str, Any] = read_json(folder / MARKER, what="shard", make="duality target score")
        self.run = str(about["run"]) if about.get("format") == FORMAT else ""
        self.blocks = range(*about["blocks"])
        self.counts = np.array(about["counts"], np.int64)
        self._offsets: dict[str, list[int]] = about["offsets"]

    def of(self, kind: str, campaign: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows int32 [n], ascending, and values float32 [n] (of EXCLUDED reasons int8) of a campaign."""
        first, last = self._offsets[kind][campaign : campaign + 2]
        dtype, size = (np.int8, 1) if kind == EXCLUDED else (np.float32, 4)
        rows = np.fromfile(self.folder / f"{kind}.rows.i32", "<i4", last - first, offset=4 * first)
        values = np.fromfile(self.folder / f"{kind}.values", dtype, last - first, offset=size * first)
        return rows, values


class Shards:
    """All shards of a run, in the order of their users."""

    def __init__(self, folders: Sequence[Path], run: str, num_blocks: int) -> None:
        self.shards = sorted((Shard(folder) for folder in folders), key=lambda shard: shard.blocks.start)
        done = [number for shard in self.shards if shard.run == run for number in shard.blocks]
        if done != list(range(num_blocks)):
            missing = sorted(set(range(num_blocks)) - set(done))
            raise InputError(
                f"{len(missing) or 'some'} of {num_blocks} blocks of users are not scored, or twice: run "
                "`duality target score` for each shard of one count"
            )

    @property
    def counts(self) -> np.ndarray:
        """int64 [C, reasons]."""
        total: np.ndarray = np.sum([shard.counts for shard in self.shards], axis=0)
        return total

    def of(self, kind: str, campaign: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Shard.of`, of all users."""
        rows, values = zip(*(shard.of(kind, campaign) for shard in self.shards), strict=True)
        return np.concatenate(rows), np.concatenate(values)

    def excluded(self, campaign: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows and reasons of those kept out, a shard at a time."""
        for shard in self.shards:
            yield shard.of(EXCLUDED, campaign)
