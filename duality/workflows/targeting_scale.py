"""Scoring the shards of a run: in local processes, or by Ray.

Each process opens the index and reads the plan once, then scores shards until none is left. What is done is left alone, so
a run that was killed goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from duality.errors import InputError, MissingExtraError
from duality.runtime import progress
from duality.targeting.plan import Plan
from duality.targeting.population import BLOCK, SAMPLE
from duality.targeting.run import Scoring, Work, begin, one_by_one, score
from duality.targeting.shards import Part
from duality.workflows.targeting import open_for_targeting

ENGINES = ("local", "ray")
PER_WORKER = 8  # shards: what a killed run has to do again is a part of its work
OVERHEAD = 300 << 20  # bytes of a process that holds nothing yet
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def scoring_by(
    index: Path, campaigns: Path, *, engine: str = "local", workers: int = 0, memory: int = 4 << 30
) -> Scoring:
    """How `duality.targeting.run.target` scores.

    Args:
        index, campaigns: what each process opens.
        engine: "local" or "ray".
        workers: processes at most; 0 takes one per core.
        memory: bytes that all of them may take together.
    """

    def shared(work: Work) -> int:
        plan = work.plan()
        blocks, allowed = plan.people.num_blocks, max(1, memory // memory_of(plan))
        processes = min(workers or os.cpu_count() or 1, allowed, blocks)
        if engine == "local" and processes < 2:
            return one_by_one(work)
        count = min(blocks, PER_WORKER * processes)
        parts = [Part(number, count) for number in range(1, count + 1)]
        task = (index, campaigns, work.folder, work.per_slot)
        _by_ray(task, parts, processes) if engine == "ray" else _by_processes(task, parts, processes)
        return count

    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: there is {' and '.join(ENGINES)}")
    return shared


def memory_of(plan: Plan) -> int:
    """Bytes that a process takes at most which scores shards."""
    campaigns, people = len(plan.file.campaigns), plan.people
    of_sample = campaigns * min(people.count, 2 * SAMPLE) * 5
    of_block = min(people.count, BLOCK) * (12 * campaigns + 8 * people.dim + 100)
    return OVERHEAD + 2 * of_sample + 2 * of_block


_mine: dict[tuple[Path, Path, Path, int], tuple[Work, Plan]] = {}
Task = tuple[Path, Path, Path, int]


def _score(task: Task, part: Part) -> bool:
    """Score one shard in this process, which keeps the plan for the next."""
    if task not in _mine:
        index, campaigns, folder, per_slot = task
        work = begin(open_for_targeting(index), campaigns, folder, per_slot)
        _mine[task] = work, work.plan()
    work, plan = _mine[task]
    return score(work, part, plan)


def _by_processes(task: Task, parts: list[Part], processes: int) -> None:
    with (
        _one_thread_each(),
        ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool,
        progress(len(parts), "scoring", unit="shards") as bar,
    ):
        for _ in pool.map(partial(_score, task), parts):
            bar.advance()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started within multiply matrices with one thread: they share the cores."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _by_ray(task: Task, parts: list[Part], processes: int) -> None:
    """The same shards as tasks of Ray Data; the work folder has to be one that all of its nodes see."""
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "'duality[ray]'") from None
    if not ray.is_initialized():
        ray.init(
            num_cpus=None if os.environ.get("RAY_ADDRESS") else processes,
            include_dashboard=False,
            log_to_driver=False,
        )

    def scored(row: dict[str, int]) -> dict[str, bool]:
        return {"done": _score(task, Part(int(row["number"]), len(parts)))}

    ray.data.from_items([{"number": part.number} for part in parts]).map(
        scored, concurrency=processes
    ).materialize()
