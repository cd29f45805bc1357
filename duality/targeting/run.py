"""A targeting run: campaign file and index in, audiences and their certificate out.

The steps are those of a cluster, whoever takes them: users are gathered from the index, scored shard by shard, merged,
assigned. Each leaves its result in a work folder, whole or not at all, and does nothing where it finds it, so that what
was interrupted goes on. What comes out does not depend, to the byte, on the number of shards.

Shapes: C campaigns, U users.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from duality.artifacts import (
    atomic_folder,
    check_replaceable,
    checksum,
    fingerprint,
    read_json,
    write_json,
)
from duality.errors import InputError
from duality.runtime import say
from duality.targeting.assignment import assign
from duality.targeting.eligibility import Standing, standing_of
from duality.targeting.index_protocol import TargetingIndex
from duality.targeting.lists import Lists
from duality.targeting.merging import MARKER as MERGED
from duality.targeting.merging import Market, load, merge, save
from duality.targeting.near import near_of
from duality.targeting.outcome import (
    ASSIGNMENT,
    Outcome,
    Page,
    check_floor,
    document_of,
    write_run,
)
from duality.targeting.plan import DEPTH, Plan, plan_run
from duality.targeting.population import Population, gather
from duality.targeting.shards import Part, Shards, score_shard
from duality.targeting.spec import CampaignFile, read_campaigns

INPUTS = "inputs.json"
DEEPER = 4  # times as many pairs, where too few were kept
Scoring = Callable[["Work"], int]  # scores all shards of a run, and says how many there are


@dataclass(frozen=True, eq=False)
class Work:
    """A run on its way.

    Attributes:
        index: users and items with their vectors.
        file: the campaigns.
        folder: where the steps leave their results.
        inputs: name to checksum of everything that went in.
        per_slot: pairs kept per slot where an exact assignment would need too many.
    """

    index: TargetingIndex
    file: CampaignFile
    folder: Path
    inputs: dict[str, str]
    per_slot: int = DEPTH

    @property
    def run(self) -> str:
        """Identity of what scores depend on."""
        return fingerprint(str(self.per_slot), *(f"{name}={value}" for name, value in self.inputs.items()))

    def plan(self) -> Plan:
        """Users, rules and scores of the sample; made of what `begin` gathered."""
        people, standing = Population(self.folder / "users"), Standing.load(self.folder / "users")
        plan = plan_run(self.index, self.file, people, standing, self.per_slot)
        if self.file.run.scoring == "index":
            plan = replace(plan, near=near_of(plan, self.folder / f"near-{self.per_slot}.npz"))
        return plan

    def shard(self, part: Part) -> Path:
        """Folder of a shard."""
        return self.folder / "shards" / part.name

    def shards(self, count: int, plan: Plan) -> Shards:
        """All shards of a count.

        Raises:
            InputError: some are not there.
        """
        folders = [self.shard(Part(number, count)) for number in range(1, count + 1)]
        there = [folder for folder in folders if folder.exists()]
        if not there:
            raise InputError(f"{self.folder}: none of {count} shards is scored: `duality target score`")
        return Shards(there, self.run, plan.people.num_blocks)


def begin(index: TargetingIndex, campaigns_path: Path, folder: Path, per_slot: int = DEPTH) -> Work:
    """Read and check the campaigns, and gather the users unless that was done before.

    Raises:
        InputError: the campaign file does not fit the index, a list cannot be read, or `folder` is of other inputs.
    """
    campaigns_path = Path(campaigns_path)
    file, lists = read_campaigns(campaigns_path), Lists(campaigns_path.parent)
    inputs = {"campaigns_sha256": checksum(campaigns_path), "index_fingerprint": index.fingerprint}
    named = sorted({*file.run.suppress, *(name for c in file.campaigns for name in c.suppress)})
    contacts = [] if file.run.contacts is None else [file.run.contacts]
    inputs |= {f"{name}_sha256": lists.checksum_of(name) for name in sorted({*named, *contacts})}
    work = Work(index, file, Path(folder), inputs, per_slot)
    users = work.folder / "users"
    if (users / INPUTS).exists():
        if read_json(users / INPUTS, what="run", make="duality target") != inputs:
            raise InputError(
                f"{folder} was begun with other campaigns, lists or another state of the index: remove it, "
                "or give another --work"
            )
        return work
    with atomic_folder(users, marker=INPUTS) as temporary:
        people = gather(index.users, temporary)
        if file.run.scores == "log-intensity":
            people.add_rates(lambda ids: index.log_rates(ids, file.run.rate_days))
        standing = standing_of(index, people, file, lists)
        standing.save(temporary)
        plan_run(index, file, people, standing)  # refuses what does not fit before any work is kept
        write_json(temporary / INPUTS, inputs)
    return work


def score(work: Work, part: Part, plan: Plan | None = None) -> bool:
    """Score one shard; False if that was done before."""
    return score_shard(plan or work.plan(), part, work.shard(part), work.run)


def merged(work: Work, count: int, plan: Plan | None = None) -> Market:
    """Join the shards of a count, and leave the result in the work folder.

    Raises:
        InputError: some are not scored.
    """
    plan = plan or work.plan()
    market = merge(plan, work.shards(count, plan))
    save(market, work.folder / "merged", f"{work.run} {count}")
    return market


def finish(work: Work, count: int, *, plan: Plan | None = None) -> Outcome:
    """Assign what was merged.

    Raises:
        InputError: nothing was merged of these inputs.
        DualityError: the assignment could not be solved.
    """
    plan = plan or work.plan()
    folder = work.folder / "merged"
    market = load(folder, f"{work.run} {count}") if (folder / MERGED).exists() else None
    if market is None:
        raise InputError(f"{work.folder}: {count} shards are not merged: `duality target merge`")
    least = [max(campaign.quota_min or 0, work.file.floor(campaign)) for campaign in work.file.campaigns]
    slots = market.asked.clip(min=1)
    assignment = assign(market.pairs, slots, plan.standing.capacity, least, whole=market.whole)
    return Outcome(plan, market, assignment, work.shards(count, plan), work.inputs)


def one_by_one(work: Work) -> int:
    """Score all users in this process."""
    score(work, Part(1, 1))
    return 1


def target(
    index: TargetingIndex,
    campaigns_path: Path,
    out: Path,
    *,
    dry_run: bool = False,
    page: Page | None = None,
    scoring: Scoring = one_by_one,
) -> dict[str, Any]:
    """Assign users to campaigns and write the audiences.

    Args:
        index: users and items with their vectors.
        campaigns_path: the campaign file.
        out: folder to create, or an earlier run's to replace.
        dry_run: compute everything, write nothing.
        page: makes the text of `report.html`; None writes none.
        scoring: who scores the shards.

    Returns:
        `campaigns` [{id, size, asked, unfilled, eligible, funnel, mean_score, lowest_score, price, holdout, expanded}]
        with `size` the users found, `objective`, `bound`, `gap`, `method`, `greedy_objective`,
        `greedy_unfilled`, `cap`, `scores` (the unit of all values), and `out` (None for a dry run).

    Raises:
        InputError: the campaign file does not fit the index, a list cannot be read, or `out` is somebody else's.
        GateError: an audience would be smaller than the floor; nothing is written.
        DualityError: the assignment could not be solved.
    """
    if not dry_run:
        check_replaceable(Path(out), marker=ASSIGNMENT)
    with _workplace(Path(out), dry_run) as folder:
        outcome = _solved(_begin_anew(index, Path(campaigns_path), folder), scoring)
        document = document_of(outcome)
        if not dry_run:
            check_floor(document)
            write_run(Path(out), outcome, document, page)
    return {**document, "out": None if dry_run else str(out)}


def _solved(work: Work, scoring: Scoring) -> Outcome:
    """Score, merge and assign; once more with more pairs while slots stay empty that others could fill."""
    while True:
        count, plan = scoring(work), work.plan()
        merged(work, count, plan)
        outcome = finish(work, count, plan=plan)
        if not outcome.shallow:
            return outcome
        work = replace(work, per_slot=DEEPER * work.per_slot)
        say(f"too few pairs to give all slots well: scoring again with {work.per_slot} for each")


@contextmanager
def _workplace(out: Path, dry_run: bool) -> Iterator[Path]:
    """A folder beside `out`, which stays if the run is interrupted, or a passing one."""
    if dry_run:
        with tempfile.TemporaryDirectory() as passing:
            yield Path(passing)
        return
    folder = out.with_name(f".{out.name}.work")
    try:
        yield folder
    except Exception:
        # What is wrong with the input stays wrong: only what was interrupted has a use for what was done.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)


def _begin_anew(index: TargetingIndex, campaigns_path: Path, folder: Path) -> Work:
    """What an interrupted run of the same inputs left is taken up, anything else removed."""
    try:
        return begin(index, campaigns_path, folder)
    except InputError:
        if not (folder / "users" / INPUTS).exists():
            raise
        shutil.rmtree(folder)
        return begin(index, campaigns_path, folder)
