"""`duality off-policy`: a log with propensities and another policy in; what that policy would earn out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duality.data.outcomes import Column, Columns, read_outcomes
from duality.errors import DataError, InputError
from duality.evaluation.off_policy import arm_means, make_log, report

ARM = ("arm", "action", "item_id", "item", "id")
CONTEXT = ("context", "user_id", "user", "query")
# Shares of a policy that add up to less are taken for a mistake.
_SLACK = 1e-6


@dataclass(frozen=True, eq=False)
class Policy:
    """Chances of the policy in question: of the shown thing, float64 [N], and of every arm.

    Attributes:
        shown: float64 [N].
        arms: the arms, in the order of `table`.
        table: float64 [C, A], a distribution per context; None when only `shown` is known.
        context: int64 [N], row of `table`.
        arm: int64 [N], place in `arms` of what each row shows.
    """

    shown: np.ndarray
    arms: list[str]
    table: np.ndarray | None = None
    context: np.ndarray | None = None
    arm: np.ndarray | None = None


def off_policy(
    log: Path,
    *,
    policy: Path | None = None,
    uniform: bool = False,
    where: str | None = None,
    columns: dict[str, str | None] | None = None,
    draw_column: str | None = None,
    cluster_column: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Estimate what a policy would have earned on the log's requests.

    Args:
        log: a file with an arm, a reward and a propensity per row, optionally a context.
        policy: a file with `arm` and `probability` (one distribution), `context` too (one per
            context), or `probability` alone, one row per row of the log: of the thing shown there.
        uniform: instead of a file: every arm of the log alike.
        where: use only the rows of the log that meet this filter expression.
        columns: role ("arm", "reward", "propensity", "context") to a column, where names are unusual.
        draw_column: rows with the same value were shown together.
        cluster_column: rows with the same value are not independent (a user, a session).
        seed: of the folds of the reward model.

    Returns:
        `report` of `duality.evaluation.off_policy`, and `policy`, `arms`, `columns`.

    Raises:
        InputError: neither or both of `policy` and `uniform`.
        DataError: a file does not fit; file, row and column are named.
    """
    if uniform == (policy is not None):
        raise InputError("give one of --policy FILE and --uniform")
    asked = columns or {}
    found = read_outcomes(log, _wanted(asked, draw_column, cluster_column, policy), where)
    _check(found)
    chances = _uniform(found) if policy is None else _from_file(policy, found, where)
    draw, cluster = (found.values.get(role) for role in ("draw", "cluster"))
    made = make_log(
        found.values["reward"],
        found.values["propensity"],
        chances.shown,
        None if draw is None else np.unique(draw, return_inverse=True)[1],
        None if cluster is None else np.unique(cluster, return_inverse=True)[1],
    )
    modelled = None
    if chances.table is not None:
        modelled = _modelled(found, chances, made.draw, made.cluster, seed)
    return {
        "policy": "uniform" if policy is None else str(policy),
        "arms": len(chances.arms),
        **report(made, modelled),
        "columns": dict(found.names),
    }


def _wanted(
    asked: dict[str, str | None], draw: str | None, cluster: str | None, policy: Path | None
) -> dict[str, Column]:
    wanted = {
        "arm": Column("id", ARM, asked.get("arm"), "--arm-column"),
        "reward": Column("number", ("reward", "click", "is_click"), asked.get("reward"), "--reward-column"),
        "propensity": Column(
            "number",
            ("propensity", "inclusion_probability", "pscore", "propensity_score"),
            asked.get("propensity"),
            "--propensity-column",
        ),
    }
    if policy is not None:
        wanted["context"] = Column("id", CONTEXT, asked.get("context"), "--context-column", required=False)
    for role, name in (("draw", draw), ("cluster", cluster)):
        if name is not None:
            wanted[role] = Column("id", (), name)
    return wanted


def _check(found: Columns) -> None:
    propensity = found.values["propensity"]
    what = "a propensity must be above 0 and at most 1"
    found.refuse(~((propensity > 0) & (propensity <= 1)), "propensity", what)
    found.refuse(~np.isfinite(found.values["reward"]), "reward", "a reward must be a finite number")
    if "draw" in found.values and "cluster" in found.values:
        pairs = set(zip(found.values["draw"], found.values["cluster"], strict=True))
        if len(pairs) > len(set(found.values["draw"])):
            raise DataError(
                "rows of one draw lie in several clusters", file=found.file, column=found.names["draw"]
            )


def _uniform(found: Columns) -> Policy:
    arms, place = np.unique(np.array(found.values["arm"], dtype=object), return_inverse=True)
    table = np.full((1, len(arms)), 1.0 / len(arms))
    context = np.zeros(len(found), np.int64)
    return Policy(table[0, place], arms.tolist(), table, context, place)


def _from_file(path: Path, found: Columns, where: str | None) -> Policy:
    given = read_outcomes(
        path,
        {
            "probability": Column("number", ("probability", "prob", "p"), None, "a column `probability`"),
            "arm": Column("id", ARM, required=False),
            "context": Column("id", CONTEXT, required=False),
        },
    )
    chance = given.values["probability"]
    given.refuse(~((chance >= 0) & (chance <= 1)), "probability", "a probability must be 0 to 1")
    if "arm" not in given.values:
        return _per_row(given, found, where)
    return _per_arm(given, found)


def _per_row(given: Columns, found: Columns, where: str | None) -> Policy:
    chance = given.values["probability"]
    arms = sorted(set(found.values["arm"]))
    # With a filter the policy may stand beside the whole log: rows are matched by their number.
    if where is not None and len(given) >= found.row.max():
        return Policy(chance[found.row - 1], arms)
    if len(given) != len(found):
        raise DataError(
            f"{len(given):,} rows for {len(found):,} of the log: one probability per row of the log, or columns "
            "arm and probability",
            file=given.file,
        )
    return Policy(chance, arms)


def _per_arm(given: Columns, found: Columns) -> Policy:
    by_context = "context" in given.values
    if by_context and "context" not in found.values:
        raise DataError("it has a context column and the log has none: see --context-column", file=given.file)
    arms = sorted({*given.values["arm"], *found.values["arm"]})
    arm_place = {name: place for place, name in enumerate(arms)}
    contexts = sorted(set(given.values["context"])) if by_context else [""]
    context_place = {name: place for place, name in enumerate(contexts)}
    of_given = [context_place[c] for c in given.values["context"]] if by_context else [0] * len(given)
    of_log = [context_place.get(c, -1) for c in found.values["context"]] if by_context else [0] * len(found)
    context = np.array(of_log, dtype=np.int64)
    if by_context:
        found.refuse(context < 0, "context", f"the policy {given.file} says nothing about this context")
    rows, columns = np.array(of_given), np.array([arm_place[a] for a in given.values["arm"]])
    table = _table(given, rows, columns, (len(contexts), len(arms)), contexts)
    arm = np.array([arm_place[a] for a in found.values["arm"]])
    return Policy(table[context, arm], arms, table, context, arm)


def _table(
    given: Columns, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], contexts: list[str]
) -> np.ndarray:
    key = rows * shape[1] + columns
    repeated = np.ones(len(key), dtype=bool)
    repeated[np.unique(key, return_index=True)[1]] = False
    given.refuse(repeated, "arm", "this arm stands there twice")
    table = np.zeros(shape)
    table[rows, columns] = given.values["probability"]
    off = np.flatnonzero(np.abs(table.sum(axis=1) - 1) > _SLACK)
    if len(off):
        who = f"context '{contexts[off[0]]}': " if contexts != [""] else ""
        total = table[off[0]].sum()
        raise DataError(f"{who}probabilities add up to {total:.6g}, not 1", file=given.file)
    return table


def _modelled(
    found: Columns, chances: Policy, draw: np.ndarray, cluster: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The reward model's predictions for what was shown, [N], and for the policy, [D]."""
    assert chances.table is not None
    assert chances.context is not None
    assert chances.arm is not None
    means, fold = arm_means(chances.arm, found.values["reward"], len(chances.arms), cluster[draw], seed=seed)
    expected = (chances.table @ means.T)[chances.context, fold]
    per_draw = np.zeros(len(cluster))
    per_draw[draw] = expected
    return means[fold, chances.arm], per_draw
