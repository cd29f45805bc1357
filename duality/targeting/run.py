"""A targeting run: campaign file and index in, audiences and their certificate out.

Reads:  a campaign file; user and item vectors of an index.
Writes: `audience.parquet` (campaign, user, rank, score; campaigns in the file's order, best
        user first), `assignment.json` (totals, bound, gap, per campaign), `manifest.json`
        (what went in, checksums of what came out). No dates: same input, same bytes.

Shapes: C campaigns, U users.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from duality.artifacts import atomic_folder, checksum, write_json
from duality.errors import GateError
from duality.targeting.assignment import Assignment, assign, greedy, total_value
from duality.targeting.scoring import Population, TargetingIndex, campaign_values, population
from duality.targeting.spec import CampaignFile, read_campaigns

AUDIENCE, ASSIGNMENT, MANIFEST = "audience.parquet", "assignment.json", "manifest.json"


def target(
    index: TargetingIndex, campaigns_path: Path, out: Path, *, dry_run: bool = False
) -> dict[str, Any]:
    """Assign users to campaigns and write the audiences.

    Args:
        index: users and items with their vectors.
        campaigns_path: the campaign file.
        out: folder to create, or an earlier run's to replace.
        dry_run: compute everything, write nothing.

    Returns:
        `campaigns` [{id, size, asked, unfilled, eligible, mean_score, lowest_score}] with
        `size` the users found, `objective`, `bound`, `gap`, `greedy_objective`,
        `greedy_unfilled`, `cap`, `scores` (the unit of all values), and `out` (None for a dry run).

    Raises:
        InputError: the campaign file does not fit the index, or `out` is somebody else's.
        DualityError: the assignment could not be solved.
    """
    file = read_campaigns(Path(campaigns_path))
    people = population(index.users)
    calibrated = file.run.scores == "probability"
    values = campaign_values(index, people, file.campaigns, calibrated=calibrated)
    sizes = [campaign.size for campaign in file.campaigns]
    assignment = assign(values, sizes, file.run.cap)
    document = _document(file, values, assignment)
    if not dry_run:
        _write(Path(out), document, file, people, values, assignment, _inputs(index, campaigns_path))
    return {**document, "out": None if dry_run else str(out)}


def check_quotas(document: dict[str, Any]) -> None:
    """Raise GateError naming the campaigns whose audience is smaller than asked."""
    short = [f"'{c['id']}' {c['size']} of {c['asked']}" for c in document["campaigns"] if c["unfilled"]]
    if short:
        raise GateError(f"not enough eligible users: {', '.join(short)}")


def _document(file: CampaignFile, values: np.ndarray, assignment: Assignment) -> dict[str, Any]:
    sizes = [campaign.size for campaign in file.campaigns]
    rows = greedy(values, sizes, file.run.cap)
    return {
        "campaigns": [
            {
                "id": campaign.id,
                "size": len(users),
                "asked": campaign.size,
                "unfilled": campaign.size - len(users),
                "eligible": int(np.isfinite(scores).sum()),
                "mean_score": float(scores[users].mean()) if len(users) else None,
                "lowest_score": float(scores[users].min()) if len(users) else None,
            }
            for campaign, scores, users in zip(file.campaigns, values, assignment.rows)
        ],
        "objective": assignment.objective,
        "bound": assignment.bound,
        "gap": assignment.gap,
        "greedy_objective": total_value(values, rows),
        "greedy_unfilled": sum(sizes) - sum(map(len, rows)),
        "cap": file.run.cap,
        "scores": file.run.scores,
    }


def _inputs(index: TargetingIndex, campaigns_path: Path) -> dict[str, str]:
    return {"campaigns_sha256": checksum(Path(campaigns_path)), "index_fingerprint": index.fingerprint}


def _write(
    out: Path,
    document: dict[str, Any],
    file: CampaignFile,
    people: Population,
    values: np.ndarray,
    assignment: Assignment,
    inputs: dict[str, str],
) -> None:
    with atomic_folder(out, marker=ASSIGNMENT) as folder:
        _write_audience(folder / AUDIENCE, file, people, values, assignment)
        write_json(folder / ASSIGNMENT, document)
        sums = {name: checksum(folder / name) for name in (AUDIENCE, ASSIGNMENT)}
        write_json(folder / MANIFEST, {"format": 1, **inputs, "checksums": sums})


def _write_audience(
    path: Path, file: CampaignFile, people: Population, values: np.ndarray, assignment: Assignment
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = [campaign.id for campaign in file.campaigns]
    campaign = np.repeat(np.arange(len(names)), assignment.filled)
    users = np.concatenate(assignment.rows)
    ranks = np.concatenate([np.arange(1, n + 1) for n in assignment.filled])
    table = pa.table(
        {
            "campaign": pa.array([names[c] for c in campaign], type=pa.string()),
            "user": pa.array([people.ids[u] for u in users], type=pa.string()),
            "rank": pa.array(ranks, type=pa.int64()),
            "score": pa.array(values[campaign, users], type=pa.float32()),
        }
    )
    parquet.write_table(table, path, compression="zstd")
