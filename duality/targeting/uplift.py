"""What contact changed: outcomes of the treated beside those of users held out at random.

Only arms that were drawn at random tell: without a holdout, who was contacted and who was not differ by what chose them,
and the effect is not identifiable, however large the log. The holdout is drawn by a hash (`audience.held_out`), within each
campaign's audience, so what is measured is the effect on those who were chosen.

The Qini curve (Radcliffe 2007) goes through the audience best score first: after a share of it, outcomes of the treated
minus those of the held out, scaled to as many. Its coefficient is the area between that and a straight line to the
end, per treated user: above 0 where contact changes more among high scores.

Cost:   RESAMPLES passes over an audience: 15 s for 100,000 users.
Shapes: A users of an audience.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duality.artifacts import checksum, read_json
from duality.errors import DamageError, InputError
from duality.runtime import progress
from duality.targeting.audience import TREATED
from duality.targeting.lists import Lists

RESAMPLES, POINTS = 1_000, 10
NO_HOLDOUT = "not identifiable: nobody of this audience was held out at random"
ONE_ARM = "not identifiable: one of the arms is empty"


@dataclass(frozen=True, eq=False)
class Arm:
    """A campaign's audience, best first.

    Attributes:
        treated: bool [A].
        outcome: float64 [A], what each user came to: 1 or 0, or the sum of a column `value`.
    """

    treated: np.ndarray
    outcome: np.ndarray


def measure(audience: Path, outcomes: Path, *, seed: int = 0) -> dict[str, Any]:
    """Effect of contact per campaign of a run.

    Args:
        audience: folder that `duality target` wrote.
        outcomes: Parquet or CSV with a column `user` and, if they are told apart, `campaign` and `value`; one row a
            purchase, visit or what counts. Who has no row has 0; without `value` any row is 1.
        seed: of the bootstrap.

    Returns:
        `campaigns` [{id, treated, holdout, identifiable, why; and where it is: rate_treated, rate_holdout, effect,
        incremental, qini, each but the rates {value, low, high} with 95% intervals, curve [{share, effect}]}],
        `outcomes` (rows that belong to an audience), `others` (rows of users who are in none).

    Raises:
        InputError: no run there, or a file that cannot be read.
        DamageError: the audience is not what the run wrote.
    """
    table = _audience(audience)
    if not outcomes.is_file():
        raise InputError(f"no outcomes at {outcomes}: give a Parquet or CSV file with a column `user`")
    told = Lists(outcomes.parent).outcomes(outcomes.name)
    campaigns, users = table["campaign"], table["user"]
    summed: dict[tuple[str | None, str], float] = {}
    for campaign, user, value in told:
        # Without values a second row is not a second outcome.
        summed[campaign, user] = 1.0 if value is None else summed.get((campaign, user), 0.0) + value
    one_of_all = all(campaign is None for campaign, _, _ in told)
    outcome = np.array(
        [summed.get((None if one_of_all else c, u), 0.0) for c, u in zip(campaigns, users, strict=True)]
    )
    treated, names = np.array([arm == TREATED for arm in table["arm"]]), np.array(campaigns, object)
    found = []
    for name in dict.fromkeys(campaigns):
        mine = names == name
        arm = Arm(treated[mine], outcome[mine])
        found.append({"id": name, **effect(arm, seed=seed)})
    known = set(users) if one_of_all else set(zip(campaigns, users, strict=True))
    inside = sum((user if one_of_all else (campaign, user)) in known for campaign, user, _ in told)
    return {"campaigns": found, "outcomes": inside, "others": len(told) - inside}


def effect(arm: Arm, *, seed: int = 0) -> dict[str, Any]:
    """What contact changed in one audience; see `measure`."""
    treated, held = int(arm.treated.sum()), int((~arm.treated).sum())
    sizes: dict[str, Any] = {"treated": treated, "holdout": held, "identifiable": bool(treated and held)}
    if not (treated and held):
        return {**sizes, "why": NO_HOLDOUT if treated else ONE_ARM}
    rates = [float(arm.outcome[side].mean()) for side in (arm.treated, ~arm.treated)]
    rng, users = np.random.default_rng(seed), len(arm.treated)
    resampled = np.empty((RESAMPLES, 2))
    with progress(RESAMPLES, "bootstrap", unit="resamples") as bar:
        for row in resampled:
            row[:] = _differs(arm, rng.poisson(1.0, users).astype(np.float64))
            bar.advance()
    value = _differs(arm, np.ones(len(arm.treated)))
    change, qini = (_interval(value[place], resampled[:, place]) for place in range(2))
    curve = _curve(arm, np.ones(len(arm.treated)))
    shares = np.linspace(0, 1, POINTS + 1)[1:]
    at = np.ceil(shares * len(curve)).astype(int) - 1
    return {
        **sizes,
        "why": "held out by a hash of salt and user",
        "rate_treated": rates[0],
        "rate_holdout": rates[1],
        "effect": change,
        "incremental": {key: number * treated for key, number in change.items()},
        "qini": qini,
        "curve": [
            {"share": float(share), "effect": float(height)}
            for share, height in zip(shares, curve[at], strict=True)
        ],
    }


def _differs(arm: Arm, weights: np.ndarray) -> np.ndarray:
    """Difference of the mean outcomes, and Qini coefficient, float64 [2]; NaN where a resample lacks an arm."""
    treated, held = weights * arm.treated, weights * ~arm.treated
    if not (treated.sum() and held.sum()):
        return np.full(2, np.nan)
    change = treated @ arm.outcome / treated.sum() - held @ arm.outcome / held.sum()
    curve = _curve(arm, weights)
    share = np.cumsum(weights) / weights.sum()
    width = np.diff(share, prepend=0.0)
    return np.array([change, float(width @ (curve - share * curve[-1])) / treated.sum()])


def _curve(arm: Arm, weights: np.ndarray) -> np.ndarray:
    """Outcomes that contact brought among the best so many, float64 [A]: of the treated, minus those of as many held out."""
    treated, held = np.cumsum(weights * arm.treated), np.cumsum(weights * ~arm.treated)
    mine, theirs = (np.cumsum(weights * side * arm.outcome) for side in (arm.treated, ~arm.treated))
    # Before the first who was held out there is nothing to compare with.
    return mine - theirs * np.divide(treated, held, out=np.zeros(len(held)), where=held > 0)


def _interval(value: float, resampled: np.ndarray) -> dict[str, float]:
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _audience(folder: Path) -> dict[str, list[Any]]:
    from pyarrow import parquet

    manifest = read_json(folder / "manifest.json", what="audience", make="duality target")
    file = folder / "audience.parquet"
    if not file.is_file() or checksum(file) != manifest.get("checksums", {}).get(file.name):
        raise DamageError(f"{file} is not what the run wrote: run `duality target` again")
    table = parquet.read_table(file, columns=["campaign", "user", "rank", "arm"])
    if not table.num_rows:
        raise InputError(f"{folder}: the audiences are empty")
    found: dict[str, list[Any]] = table.to_pydict()
    return found
