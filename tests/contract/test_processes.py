"""One writer and many readers in processes of their own: one commit at a time, and the newest.

DUALITY_PROCESS_SECONDS  how long they run beside each other, per kind (2)
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract_agents import Agent
from process_jobs import build_stamped, stamped

from duality.index.pair import Pair

SECONDS = float(os.environ.get("DUALITY_PROCESS_SECONDS", "2"))
READERS = 3


def finish(agent: Agent, job: str, answers: list[Any], **arguments: Any) -> threading.Thread:
    """Run a job to its end in a thread; its answer, or what went wrong, goes to `answers`."""

    def run() -> None:
        try:
            answers.append(agent.call(job, **arguments))
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("kind", "switching"), [("exact", False), ("ivf", False), ("hnsw", False), ("exact", True), ("ivf", True)]
)
def test_readers_see_whole_commits_and_follow(
    kind: str, switching: bool, started: Callable[[], Agent], scratch: Path
) -> None:
    folder, acknowledged = scratch / "index", scratch / "acknowledged"
    build_stamped(folder, kind, 1)
    acknowledged.write_text("1")
    shared = {"folder": str(folder), "acknowledged": str(acknowledged), "seconds": SECONDS}
    writes: list[Any] = []
    reads: list[Any] = []
    threads = [finish(started(), "process_jobs:read_on", reads, **shared) for _ in range(READERS)]
    writer = {"kind": kind, "switching": switching, **shared}
    threads.append(finish(started(), "process_jobs:write_on", writes, **writer))
    for thread in threads:
        thread.join()
    failures = [answer for answer in [*reads, *writes] if isinstance(answer, Exception)]
    assert not failures, failures[0]
    problems = [problem for answer in reads for problem in answer["problems"]]
    commits = [answer["commits"] for answer in reads]
    print(f"{kind}: {writes[0]} commits, reads {[answer['reads'] for answer in reads]} of {commits} commits")
    assert not problems, "\n".join([f"{len(problems)} problems", *problems[:10]])
    # Readers that stay on one commit would agree with themselves without following.
    assert min(commits) >= 3


def test_a_reader_opened_before_sees_later_commits(agent: Agent, scratch: Path) -> None:
    build_stamped(scratch / "index", "exact", 1)
    (scratch / "acknowledged").write_text("1")
    with Pair.open(scratch / "index") as reader:
        arguments = {"folder": str(scratch / "index"), "acknowledged": str(scratch / "acknowledged")}
        last = agent.call(
            "process_jobs:write_on", kind="exact", seconds=0.1, switching=False, fork=True, **arguments
        )
        assert last > 1
        assert {record["attributes"]["round"] for record in reader.items.list()} == {last}
        _, scores = reader.items.search(np.eye(1, reader.dim, dtype=np.float32), 5)
        assert scores.tolist() == [[float(last)] * 5]


def test_a_second_writer_is_refused_until_the_first_is_gone(
    started: Callable[[], Agent], scratch: Path
) -> None:
    build_stamped(scratch / "index", "exact", 1)
    holder, other = started(), started()
    job = holder.stream("process_jobs:hold", folder=str(scratch / "index"))
    pid = next(message["pid"] for message in job if "pid" in message)
    assert "writing" in next(job)
    refusal = other.call("process_jobs:try_to_write", folder=str(scratch / "index"))
    assert refusal
    assert str(pid) in refusal
    assert "\n" not in refusal
    with Pair.open(scratch / "index") as reader:
        assert reader.items.count == len(stamped(1)[0])
    os.kill(pid, signal.SIGKILL)
    assert next(job) == {"exit": -signal.SIGKILL}
    assert other.call("process_jobs:try_to_write", folder=str(scratch / "index")) is None
