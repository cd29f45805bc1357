"""Does an open index hold and find what it must? Answers are lists of problems, one line each."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from contract_states import DIM, SIDES, Rows, State, held_by, vectors_for

from duality.errors import DualityError
from duality.index.pair import Pair, verify_folder
from duality.index.side import Side

# What a message about damage must hold: something that the reader can do.
ADVICE = re.compile(r"build|restore|rollback|go back|compact|mend|upsert|delete|remove|upgrade|move", re.I)
K = 10
# Structures may miss some neighbours; what they return must still be true.
RECALL = 0.7


def differences(found: State, expected: State) -> list[str]:
    """How two states differ; empty when they do not, to the bit."""
    problems = []
    for side in SIDES:
        lost = expected[side].keys() - found[side].keys()
        extra = found[side].keys() - expected[side].keys()
        both = expected[side].keys() & found[side].keys()
        vectors = [id for id in both if found[side][id][0] != expected[side][id][0]]
        attributes = [id for id in both if found[side][id][1] != expected[side][id][1]]
        for what, ids in [
            ("lost", lost),
            ("not to be there", extra),
            ("of another vector", vectors),
            ("of other attributes", attributes),
        ]:
            if ids:
                problems.append(f"{side}: {len(ids)} rows {what} ({', '.join(sorted(ids)[:3])} …)")
    return problems


def search_problems(pair: Pair, state: State, seed: int = 0) -> list[str]:
    """Where `search`, `get` and filters of an open index contradict a state."""
    return [problem for use in _uses(pair, state, seed) for problem in use()]


def _uses(pair: Pair, state: State, seed: int) -> list[Callable[[], list[str]]]:
    """Ways to use an index, each on its own: what one refuses says nothing about the next."""
    queries = vectors_for(seed + 77, 6)
    uses = []
    for name in SIDES:
        side, rows = pair.side(name), state[name]
        late = {id: row for id, row in rows.items() if row[1].get("year", 0) >= 1950}
        uses += [
            partial(_answers, side, late, queries, "year >= 1950", exact=False),
            partial(_filtered, side, late),
            partial(_answers, side, rows, queries, None, exact=False),
            partial(_answers, side, rows, queries, None, exact=True),
            partial(_got, side, rows),
        ]
    return uses


def _filtered(side: Side, expected: Rows) -> list[str]:
    if "year" not in side.attributes:
        return []
    listed = {record["id"] for record in side.list(where="year >= 1950")}
    same = listed == expected.keys()
    return [] if same else [f"{side.name}: a filter lists {len(listed)} rows, {len(expected)} match"]


def _got(side: Side, rows: Rows) -> list[str]:
    asked = [*list(rows)[:5], "nobody"]
    records, missing = side.get(asked)
    got = [(record["id"], np.asarray(record["vector"], "<f4").tobytes()) for record in records]
    problems = []
    if got != [(id, rows[id][0]) for id in asked[:-1]] or missing != ["nobody"]:
        problems.append(f"{side.name}: get answers something else")
    if side.count != len(rows):
        problems.append(f"{side.name}: count is {side.count}, {len(rows)} rows are there")
    return problems


def _answers(side: Side, rows: Rows, queries: np.ndarray, where: str | None, *, exact: bool) -> list[str]:
    if where and "year" not in side.attributes:
        return []
    ids, scores = side.search(queries, K, where=where, exact=exact)
    how = f"{side.name}: search(where={where}, exact={exact})"
    names = np.array(list(rows), object)
    vectors = np.frombuffer(b"".join(vector for vector, _ in rows.values()), "<f4").reshape(-1, DIM)
    true = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    place = {name: column for column, name in enumerate(names)}
    expected, hits, wanted = min(K, len(rows)), 0, 0
    for row in range(len(queries)):
        found = [id for id in ids[row] if id is not None]
        if len(found) != expected or len(set(found)) != expected:
            return [f"{how}: {len(set(found))} results, {expected} rows match"]
        ghosts = [id for id in found if id not in place]
        if ghosts:
            return [f"{how}: {ghosts[0]} is not to be found"]
        scored = true[row, [place[id] for id in found]] if found else np.empty(0)
        if not np.allclose(scored, scores[row, :expected], rtol=1e-4, atol=1e-4):
            return [f"{how}: a score is not that of its row"]
        limit = np.sort(true[row])[::-1][expected - 1] if expected else -np.inf
        hits, wanted = hits + int((scored >= limit - 1e-4).sum()), wanted + expected
    if hits < (wanted if exact else RECALL * wanted):
        return [f"{how}: {hits} of the {wanted} nearest rows"]
    return []


def one_line(error: BaseException) -> str | None:
    """What is wrong with an error as a message to people, or None."""
    text = str(error)
    if not isinstance(error, DualityError):
        return f"{type(error).__name__} instead of an error of duality: {text[:300]}"
    return None if text.strip() and "\n" not in text.strip() else f"not one line: {text[:300]!r}"


def served(folder: Path, expected: State, mode: str = "r", seed: int = 0) -> tuple[str | None, list[str]]:
    """Open an index and use all of it.

    Returns:
        The message of a refusal, if anything was refused; and what was wrong: other answers than
        those of `expected`, or a refusal that is no clear error.
    """
    refusal, problems = None, []
    try:
        with Pair.open(folder, mode) as pair:
            for use in [*_uses(pair, expected, seed), lambda: differences(held_by(pair), expected)]:
                try:
                    problems += use()
                except Exception as error:
                    refusal = str(error)
                    problems += _unclear(error)
    except Exception as error:
        return str(error), problems + _unclear(error)
    return refusal, problems


def _unclear(error: Exception) -> list[str]:
    problem = one_line(error)
    return [problem] if problem else []


def verified(folder: Path) -> tuple[list[str], list[str]]:
    """What `verify_folder` reports, and what is wrong with the report itself."""
    try:
        report = verify_folder(folder)
    except Exception as error:
        return [str(error)], [f"verify: {problem}" for problem in _unclear(error)]
    wrong = [f"verify: not one line: {line[:300]!r}" for line in report if "\n" in line]
    if report and not any(ADVICE.search(line) for line in report):
        wrong.append(f"verify says not what to do: {report[0][:300]}")
    return report, wrong
