"""A targeting run: campaign file and index in, audiences and their certificate out.

Reads:  a campaign file and the lists beside it; user and item vectors of an index.
Writes: `audience.parquet` (who was chosen, audience.py), `excluded.parquet` (who could not be had, and why),
        `reach.json` and `overlap.csv` (rounded, reach.py), `assignment.json` (totals, bound, gap, per campaign),
        `datalabel.json` (where the data come from), `report.html` (for people, if asked for), `manifest.json` (what
        went in, checksums of what came out).
        No dates of the run: same input, same bytes.

Shapes: C campaigns, U users.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duality.artifacts import atomic_folder, checksum, write_json
from duality.errors import GateError
from duality.targeting.assignment import Assignment, assign, greedy, total_value
from duality.targeting.audience import HOLDOUT, arms, audience_table, excluded_table
from duality.targeting.eligibility import Eligibility, judge
from duality.targeting.lists import Lists
from duality.targeting.reach import overlaps, reach, rounded
from duality.targeting.scoring import Population, TargetingIndex, campaign_values, population
from duality.targeting.spec import CampaignFile, read_campaigns

AUDIENCE, EXCLUDED, REACH, OVERLAP = "audience.parquet", "excluded.parquet", "reach.json", "overlap.csv"
ASSIGNMENT, LABEL, MANIFEST = "assignment.json", "datalabel.json", "manifest.json"
REPORT = "report.html"
FORMAT = 2


@dataclass(frozen=True, eq=False)
class Scored:
    """A run before anybody is chosen.

    Attributes:
        file: the campaigns.
        people: all users.
        values: float64 [C, U], what users are worth.
        eligibility: who may be had.
        inputs: name to checksum of everything that went in.
    """

    file: CampaignFile
    people: Population
    values: np.ndarray
    eligibility: Eligibility
    inputs: dict[str, str]

    @property
    def asked(self) -> list[int]:
        """Users that each campaign wants."""
        may = self.eligibility.eligible.sum(axis=1)
        return [campaign.asks(int(n)) for campaign, n in zip(self.file.campaigns, may, strict=True)]


Page = Callable[["Scored", Assignment, dict[str, Any]], str]


def target(
    index: TargetingIndex,
    campaigns_path: Path,
    out: Path,
    *,
    dry_run: bool = False,
    page: Page | None = None,
) -> dict[str, Any]:
    """Assign users to campaigns and write the audiences.

    Args:
        index: users and items with their vectors.
        campaigns_path: the campaign file.
        out: folder to create, or an earlier run's to replace.
        dry_run: compute everything, write nothing.
        page: makes the text of `report.html`; None writes none.

    Returns:
        `campaigns` [{id, size, asked, unfilled, eligible, funnel, mean_score, lowest_score, holdout, expanded}] with
        `size` the users found, `objective`, `bound`, `gap`, `greedy_objective`,
        `greedy_unfilled`, `cap`, `scores` (the unit of all values), and `out` (None for a dry run).

    Raises:
        InputError: the campaign file does not fit the index, a list cannot be read, or `out` is somebody else's.
        GateError: an audience would be smaller than the floor; nothing is written.
        DualityError: the assignment could not be solved.
    """
    scored = score(index, Path(campaigns_path))
    assignment = _assigned(scored)
    document = _document(scored, assignment)
    if not dry_run:
        check_floor(document)
        _write(Path(out), index, scored, assignment, document, page)
    return {**document, "out": None if dry_run else str(out)}


def score(index: TargetingIndex, campaigns_path: Path) -> Scored:
    """What every user is worth to every campaign, and who may be had."""
    file, lists = read_campaigns(campaigns_path), Lists(campaigns_path.parent)
    people = population(index.users)
    calibrated = file.run.scores == "probability"
    values = campaign_values(index, people, file.campaigns, calibrated=calibrated)
    eligibility = judge(index, people, file, values, lists)
    inputs = {"campaigns_sha256": checksum(campaigns_path), "index_fingerprint": index.fingerprint}
    return Scored(file, people, values, eligibility, {**inputs, **_named(lists)})


def _named(lists: Lists) -> dict[str, str]:
    return {f"{name}_sha256": digest for name, digest in sorted(lists.checksums.items())}


def _may(scored: Scored) -> tuple[np.ndarray, list[int]]:
    """Values float64 [C, U], -inf for who may not be had, and sizes of at least 1, as `assign` wants them."""
    values, asked = np.where(scored.eligibility.eligible, scored.values, -np.inf), scored.asked
    values[[number < 1 for number in asked]] = -np.inf
    return values, [max(1, number) for number in asked]


def _assigned(scored: Scored) -> Assignment:
    values, sizes = _may(scored)
    file = scored.file
    least = [max(campaign.quota_min or 0, file.floor(campaign)) for campaign in file.campaigns]
    return assign(values, sizes, scored.eligibility.capacity, least)


def check_quotas(document: dict[str, Any]) -> None:
    """Raise GateError naming the campaigns that found fewer users than they need: `quota_min`, or all they asked for."""
    short = [
        f"'{c['id']}' {c['size']} of {c['needed']}" for c in document["campaigns"] if c["size"] < c["needed"]
    ]
    if short:
        raise GateError(f"not enough eligible users: {', '.join(short)}")


def check_floor(document: dict[str, Any]) -> None:
    """Raise GateError naming the campaigns whose audience is smaller than any may be (`min_audience`)."""
    small = [
        f"'{c['id']}' {c['size']}, and {c['floor']} is the least"
        for c in document["campaigns"]
        if c["size"] < c["floor"]
    ]
    if small:
        raise GateError(
            f"audiences so small could point at people, nothing was written: {', '.join(small)} (min_audience)"
        )


def _document(scored: Scored, assignment: Assignment) -> dict[str, Any]:
    file, eligibility = scored.file, scored.eligibility
    values, sizes = _may(scored)
    rows = greedy(values, sizes, eligibility.capacity)
    campaigns = []
    for row, (campaign, users) in enumerate(zip(file.campaigns, assignment.rows, strict=True)):
        worth, asked = scored.values[row, users], scored.asked[row]
        held = arms(campaign, [scored.people.ids[user] for user in users]).count(HOLDOUT)
        campaigns.append(
            {
                "id": campaign.id,
                "size": len(users),
                "asked": asked,
                "unfilled": asked - len(users),
                "floor": file.floor(campaign),
                "needed": asked if campaign.quota_min is None else campaign.quota_min,
                "eligible": int(eligibility.eligible[row].sum()),
                "funnel": [{"step": step, "left": left} for step, left in eligibility.funnel(row)],
                "mean_score": float(worth.mean()) if len(users) else None,
                "lowest_score": float(worth.min()) if len(users) else None,
                "holdout": held,
                "expanded": int(eligibility.expanded[row, users].sum()),
            }
        )
    return {
        "campaigns": campaigns,
        "objective": assignment.objective,
        "bound": assignment.bound,
        "gap": assignment.gap,
        "greedy_objective": total_value(values, rows),
        "greedy_unfilled": sum(scored.asked) - sum(map(len, rows)),
        "cap": file.run.cap,
        "scores": file.run.scores,
    }


def _write(
    out: Path,
    index: TargetingIndex,
    scored: Scored,
    assignment: Assignment,
    document: dict[str, Any],
    page: Page | None,
) -> None:
    from pyarrow import parquet

    file, people, eligibility = scored.file, scored.people, scored.eligibility
    with atomic_folder(out, marker=ASSIGNMENT) as folder:
        chosen = audience_table(index, file, people, scored.values, eligibility, assignment.rows)
        parquet.write_table(chosen, folder / AUDIENCE, compression="zstd")
        parquet.write_table(excluded_table(file, people, eligibility), folder / EXCLUDED, compression="zstd")
        write_json(folder / REACH, reach(file, scored.values, eligibility, assignment.filled))
        _write_overlaps(folder / OVERLAP, overlaps(file, scored.values, eligibility, assignment.rows))
        write_json(folder / ASSIGNMENT, document)
        write_json(
            folder / LABEL, {**index.about, "users": rounded(len(people.ids)), "method": _method(file)}
        )
        if page is not None:
            (folder / REPORT).write_text(page(scored, assignment, document), encoding="utf-8")
        sums = {path.name: checksum(path) for path in sorted(folder.iterdir())}
        write_json(folder / MANIFEST, {"format": FORMAT, **scored.inputs, "checksums": sums})


def _method(file: CampaignFile) -> dict[str, str]:
    """How each campaign's users were ranked."""
    words = {
        "items": "log p(item | user), mean over the items",
        "items_where": "log p(item | user), mean over the items that match",
        "vector": "inner product with the vector, population mean taken off",
        "seed_users": "inner product with the mean of the seed users, population mean taken off",
    }
    return {
        campaign.id: next(text for name, text in words.items() if getattr(campaign, name))
        for campaign in file.campaigns
    }


def _write_overlaps(path: Path, rows: list[dict[str, Any]]) -> None:
    names = ["first", "second", "wanted_by_both", "jaccard", "given_to_both"]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
