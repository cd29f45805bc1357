"""Scoring one part of the users: pairs worth keeping, counts of the funnel, and who was kept out.

A shard is some of the blocks of the population. It depends on nothing but the run's inputs, is written whole or not
at all, and is found done when it is asked for again.

Writes: a folder with `shard.json`, and for each of KINDS users' places in their blocks, their values or reasons, and where
        those of each campaign end: block by block and in it campaign by campaign, in the order that they are made.
Cost:   one block of vectors and its scores in memory; a pass over the vectors; six bytes a pair that is kept.
Shapes: C campaigns, B blocks, n users of a block.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from duality.artifacts import atomic_folder, read_json
from duality.errors import InputError
from duality.runtime import progress
from duality.targeting.eligibility import ELIGIBLE, REASONS
from duality.targeting.plan import Plan

MARKER, ENDS, FORMAT = "shard.json", "ends.npy", 2
SOON = 8  # blocks
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
    with (
        atomic_folder(folder, marker=MARKER) as temporary,
        ExitStack() as files,
        progress(len(blocks), f"shard {part.number}/{part.count}", unit="blocks") as bar,
    ):
        found = _Found(temporary, len(plan.file.campaigns), files)
        for number in blocks:
            _score_block(plan, number, found)
            bar.advance()
        files.close()
        lengths = np.array(list(found.lengths.values()), np.int64)
        ends = lengths.reshape(len(KINDS), -1).cumsum(axis=1)
        np.save(temporary / ENDS, ends.reshape(len(KINDS), len(blocks), len(found.counts)))
        about = {"format": FORMAT, "run": run, "block_size": plan.people.block_size}
        about |= {"blocks": [blocks.start, blocks.stop], "counts": found.counts.tolist()}
        (temporary / MARKER).write_text(json.dumps(about), encoding="utf-8")
    return True


class _Found:
    """What blocks give, written as they come."""

    def __init__(self, folder: Path, campaigns: int, files: ExitStack) -> None:
        self.counts = np.zeros((campaigns, len(REASONS)), np.int64)
        self.lengths: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
        self._room = np.empty((0, 0), bool)
        self._folder, self._opened = folder, files
        self._files: dict[str, list[BinaryIO]] = {}

    def room(self, shape: tuple[int, ...]) -> np.ndarray:
        """bool of a shape, the same memory for every block."""
        if self._room.shape != shape:
            self._room = np.empty(shape, bool)
        return self._room

    def add(self, kind: str, lengths: np.ndarray, places: np.ndarray, what: np.ndarray) -> None:
        """Those of a block: how many each campaign has, int [C], their places uint16 and what belongs to them."""
        self.lengths[kind].append(lengths)
        if kind not in self._files:
            opened = [(self._folder / name).open("wb") for name in _names(kind)]
            self._files[kind] = [self._opened.enter_context(file) for file in opened]
        for file, column in zip(self._files[kind], (places, what), strict=True):
            file.write(column.data)
            if len(self.lengths[kind]) % SOON == 0:
                _begin_to_store(file, size=SOON * column.nbytes)

    def add_some(self, kind: str, parts: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
        """The same of some campaigns: their numbers, ascending, to places and what belongs to them."""
        lengths = np.zeros(len(self.counts), np.int64)
        if not parts:
            self.lengths[kind].append(lengths)
            return
        lengths[list(parts)] = [len(places) for places, _ in parts.values()]
        places, what = (np.concatenate(column) for column in zip(*parts.values(), strict=True))
        self.add(kind, lengths, places.astype(np.uint16), what.astype(_dtype(kind)))


def _begin_to_store(file: BinaryIO, size: int) -> None:
    """Let the system write about the last `size` bytes to the disk meanwhile: the end of a shard waits for all of them."""
    file.flush()
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), max(file.tell() - size, 0), size, os.POSIX_FADV_DONTNEED)


def _names(kind: str) -> tuple[str, str]:
    return f"{kind}.places.u16", f"{kind}.values"


def _dtype(kind: str) -> type[np.generic]:
    return np.int8 if kind == EXCLUDED else np.float32


def _score_block(plan: Plan, number: int, found: _Found) -> None:
    rows, values = plan.values_of(number)
    kept = np.greater_equal(values, plan.keep[:, None], out=found.room(values.shape))
    # Per campaign only where there is something to ask: a call for each costs as much as comparing its values.
    found.counts[plan.open, ELIGIBLE] += values.shape[1]
    excluded, others = {}, {}
    for campaign in plan.restricted:
        worth = values[campaign]
        reasons = plan.reasons_of(campaign, rows, worth)
        assert reasons is not None
        found.counts[campaign] += np.bincount(reasons, minlength=len(REASONS))
        kept[campaign] &= reasons == ELIGIBLE
        outside, beyond = np.flatnonzero(reasons), plan.others(campaign, worth, reasons)
        excluded[campaign], others[campaign] = (outside, reasons[outside]), (beyond, worth[beyond])
    found.add_some(EXCLUDED, excluded)
    found.add_some(OTHERS, others)
    # Of all campaigns at once: a call for each costs more than the comparison.
    place = _places(kept)
    size = kept.shape[1]
    ends = np.searchsorted(place, np.arange(1, len(kept) + 1) * size)
    ends[1:] -= ends[:-1].copy()
    found.add(PAIRS, ends, _in_block(place, size), values.take(place))


def _places(kept: np.ndarray) -> np.ndarray:
    """`np.flatnonzero` of bool [C, n], where few are kept: eight at a time takes two thirds of its time."""
    if kept.size % 8:
        return np.flatnonzero(kept)
    words = kept.reshape(-1).view(np.uint64)
    some = np.flatnonzero(words != 0)
    among = np.flatnonzero(words.take(some).view(bool))
    found: np.ndarray = (some << 3).take(among >> 3)
    found += among & 7
    return found


def _in_block(place: np.ndarray, size: int) -> np.ndarray:
    """Columns uint16 of places in a matrix `size` <= 65,536 wide."""
    if size & (size - 1):
        return (place % size).astype(np.uint16)
    return place.astype(np.uint16) & np.uint16(size - 1)  # a fifth of the time of a division


class Shard:
    """A shard that was scored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about: dict[str, Any] = read_json(folder / MARKER, what="shard", make="duality target score")
        self.run = str(about["run"]) if about.get("format") == FORMAT else ""
        self.blocks = range(*about["blocks"])
        self.counts = np.array(about["counts"], np.int64)
        self._starts = np.array(self.blocks, np.int32) * int(about.get("block_size", 0))
        self._opened: dict[str, tuple[np.ndarray, ...]] = {}

    @cached_property
    def _ends(self) -> np.ndarray:
        """int64 [kinds, B, C], places in the files where a block's of a campaign end."""
        ends: np.ndarray = np.load(self.folder / ENDS)
        return ends

    def of(self, kind: str, campaign: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows int32 [n], ascending, and values float32 [n] (of EXCLUDED reasons int8) of a campaign."""
        ends = self._ends[KINDS.index(kind)]
        last = ends[:, campaign]
        first = ends[:, campaign - 1] if campaign else np.concatenate(([0], ends[:, -1]))[:-1]
        chosen = [slice(*between) for between in zip(first.tolist(), last.tolist(), strict=True)]
        mine, values = (
            np.concatenate([column[:0], *(column[part] for part in chosen)]) for column in self._files(kind)
        )
        return mine.astype(np.int32) + np.repeat(self._starts, last - first), values

    def _files(self, kind: str) -> tuple[np.ndarray, ...]:
        """Places and values of a kind, mapped; there are no files where nobody is of it."""
        if kind not in self._opened:
            kinds = zip(_names(kind), (np.dtype(np.uint16), np.dtype(_dtype(kind))), strict=True)
            there = self._ends[KINDS.index(kind)].any()
            self._opened[kind] = tuple(
                np.memmap(self.folder / name, dtype, "r") if there else np.empty(0, dtype)
                for name, dtype in kinds
            )
        return self._opened[kind]


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
