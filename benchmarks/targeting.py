"""A targeting run at the size of a real user base, and where its time goes.

    python benchmarks/targeting.py [--users 10000000] [--campaigns 100] [--size 100000] [--cap 3] [--workers 2] --folder F

Users and campaigns are random directions in 64 dimensions that share one. What users are written to disk as (the gathering
of an index is timed by benchmarks/index.py) is made here; then the scoring pass is timed beside what it cannot
do without, in the same run and the same processes: reading the vectors, and multiplying them with the campaigns'. The last
lines are the ratio, the assignment with its gap, and the largest resident set of each process.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes share the cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from duality.targeting.assignment import assign
from duality.targeting.eligibility import Standing
from duality.targeting.merging import merge
from duality.targeting.plan import Plan, plan_run
from duality.targeting.population import Population, gather
from duality.targeting.shards import Part, Shards, score_shard
from duality.targeting.spec import Campaign, CampaignFile, RunSettings

DIM, AT_ONCE, SHARDS = 64, 65_536, 16


class Users:
    """Random users, in the order of ids."""

    def __init__(self, count: int) -> None:
        self.count = count

    def blocks(self) -> Any:
        common = np.random.default_rng(1).normal(size=DIM).astype(np.float32)
        for start in range(0, self.count, AT_ONCE):
            rows = min(AT_ONCE, self.count - start)
            noise = np.random.default_rng([2, start]).standard_normal((rows, DIM), np.float32)
            yield [f"u{row:09}" for row in range(start, start + rows)], (noise + common) / 8

    def ids_where(self, where: str) -> list[str]:
        return []


class Items:
    def get_vectors(self, ids: Any) -> np.ndarray:
        return np.stack([np.random.default_rng([3, int(i)]).normal(size=DIM) for i in ids]).astype(np.float32)


class Index:
    """Random users and items."""

    moment, about, fingerprint = 0, {}, "random"

    def __init__(self, count: int) -> None:
        self.users, self.items = Users(count), Items()

    def takes(self, items: Any, days: float) -> None:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=10_000_000)
    parser.add_argument("--campaigns", type=int, default=100)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--cap", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5, help="of the passes, in turn; medians are told")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    users = given.folder / "users"
    if not (users / "population.json").exists():
        users.mkdir(parents=True, exist_ok=True)
        _timed("users written", gather, Index(given.users).users, users)
    how = (given.users, given.campaigns, given.size, given.cap, users)
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for step in (_read, _multiply, _score):  # the plan is made, and everybody is awake
            list(pool.map(partial(_part, how, step, None), range(given.workers)))
        steps = (_read, _multiply, _score)
        rounds = [[_pass(pool, how, step, given.folder) for step in steps] for _ in range(given.rounds)]
        seconds = dict(zip((step.__name__ for step in steps), np.median(rounds, axis=0), strict=True))
        ratios = [score / multiply for _, multiply, score in rounds]
        worker = max(pool.map(_resident, range(given.workers)))
    print(f"reading                {seconds['_read']:6.2f} s")
    print(f"and multiplying        {seconds['_multiply']:6.2f} s")
    print(
        f"scoring pass           {seconds['_score']:6.2f} s, {given.users / seconds['_score'] / 1e6:.1f} million users/s"
    )
    print(
        f"ratio                  {np.median(ratios):6.2f}, round by round {', '.join(f'{r:.2f}' for r in ratios)}"
    )
    plan = _plan(how)
    folders = [given.folder / "shards" / Part(n, SHARDS).name for n in range(1, SHARDS + 1)]
    market = _timed("merged", merge, plan, Shards(folders, "run", plan.people.num_blocks))
    pairs, capacity = market.pairs, plan.standing.capacity
    found = _timed("assigned", assign, pairs, market.asked, capacity, whole=market.whole)
    slots = sum(map(len, found.pairs))
    print(
        f"{len(pairs.value):,} pairs, {slots:,} of {market.asked.sum():,} slots by {found.method}, gap {found.gap:.1e}"
    )
    print(f"resident at most       {worker:6.2f} GB a worker, {_resident(0):.2f} GB here")


def _plan(how: tuple[int, int, int, int, Path]) -> Plan:
    users, campaigns, size, cap, folder = how
    people = Population(folder)
    run = RunSettings(cap=cap, min_audience=1)
    asked = tuple(Campaign(id=f"c{n}", items=(str(n),), size=size) for n in range(campaigns))
    nobody = Standing({}, [[] for _ in asked], np.full(users, cap, np.int8))
    return plan_run(Index(users), CampaignFile(run=run, campaigns=asked), people, nobody)


_plans: dict[Any, Plan] = {}


def _part(how: Any, step: Any, folder: Path | None, number: int) -> None:
    if how not in _plans:
        _plans[how] = _plan(how)
    if folder is not None:
        step(_plans[how], Part(number, SHARDS), folder)


def _pass(pool: ProcessPoolExecutor, how: Any, step: Any, folder: Path) -> float:
    shutil.rmtree(folder / "shards", ignore_errors=True)  # of the round before: not part of a run
    started = time.perf_counter()
    list(pool.map(partial(_part, how, step, folder), range(1, SHARDS + 1)))
    return time.perf_counter() - started


def _read(plan: Plan, part: Part, folder: Path) -> None:
    for number in part.blocks(plan.people.num_blocks):
        plan.people.block(number)


def _multiply(plan: Plan, part: Part, folder: Path) -> None:
    for number in part.blocks(plan.people.num_blocks):
        plan.scorer.vectors @ plan.people.block(number)[1].T


def _score(plan: Plan, part: Part, folder: Path) -> None:
    score_shard(plan, part, folder / "shards" / part.name, "run")


def _resident(_: int) -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _timed(what: str, call: Any, *given: Any, **named: Any) -> Any:
    started = time.perf_counter()
    found = call(*given, **named)
    print(f"{what:22s} {time.perf_counter() - started:6.2f} s", flush=True)
    return found


if __name__ == "__main__":
    main()
