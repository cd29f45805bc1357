"""A disk that is full, or that cannot sync, at every call of an operation in turn.

What fails says so in one line, loses nothing that was acknowledged, and never counts as done.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from contract_agents import FULL, SYNC_ALWAYS, SYNC_ONCE, Agent
from contract_states import build_index
from full_disk_jobs import BUILT, OPERATIONS


@pytest.fixture
def base(scratch: Path) -> Path:
    """An index to copy; it lies where faults strike, but nothing is armed yet."""
    build_index(scratch / "base", "exact", **BUILT)
    return scratch / "base"


def shown(problems: list[str]) -> str:
    """The first problems, one a line."""
    return "\n".join([f"{len(problems)} problems", *problems[:12]])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_full_disk_changes_nothing_or_all(
    operation: str, failing: Agent, base: Path, scratch: Path
) -> None:
    paths = {"base": str(base), "folder": str(scratch / "arena" / "index")}
    job = "full_disk_jobs:sweep"
    found = failing.call(job, fork=True, operation=operation, kind="exact", mode=FULL, **paths)
    print(f"{operation}: {found['calls']} calls, {found['failed']} failures")
    # An operation that ignores every failure, or that makes no calls, would prove nothing.
    assert found["calls"] >= found["failed"] >= 1
    assert not found["problems"], shown(found["problems"])


def test_closing_on_a_full_disk_keeps_what_was_acknowledged(
    failing: Agent, base: Path, scratch: Path
) -> None:
    paths = {"base": str(base), "folder": str(scratch / "arena" / "index")}
    problems = failing.call("full_disk_jobs:close_on_full_disk", fork=True, mode=FULL, **paths)
    assert not problems, shown(problems)


@pytest.mark.parametrize("mode", [SYNC_ONCE, SYNC_ALWAYS], ids=["once", "always"])
def test_a_write_that_cannot_be_synced_is_not_acknowledged(
    mode: int, failing: Agent, base: Path, scratch: Path
) -> None:
    paths = {"base": str(base), "folder": str(scratch / "arena" / "index")}
    found = failing.call("full_disk_jobs:failing_sync", fork=True, mode=mode, **paths)
    assert found["syncs"] >= 1
    assert not found["problems"], shown(found["problems"])


@pytest.mark.parametrize("operation", ["compact", "build"])
def test_operations_that_cannot_be_synced_lose_nothing(
    operation: str, failing: Agent, base: Path, scratch: Path
) -> None:
    paths = {"base": str(base), "folder": str(scratch / "arena" / "index")}
    job = "full_disk_jobs:sweep"
    found = failing.call(job, fork=True, operation=operation, kind="exact", mode=SYNC_ONCE, **paths)
    assert found["calls"] >= 1
    assert not found["problems"], shown(found["problems"])
