"""Every command in README.md and docs/ runs, in order, on small data.

Long ones get settings that make them small (SMALLER); the command itself stays as written.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from processes import command
from small_worlds import SMALL, synthetic_items, synthetic_log

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS = [part for setting in SMALL for part in ("--set", setting)]
SMALLER = {
    "duality demo": [
        part
        for setting in (
            "train.epochs=1",
            "model.dim=16",
            "train.rows=4000",
            "evaluate.direction=user-to-item",
        )
        for part in ("--set", setting)
    ],
    "duality train": SETTINGS,
    "duality run": [*SETTINGS, "--set", "import.source=log", "--set", "evaluate.baselines=false"],
}
CLEARED = ("time_from", "time_user_map", "time_item_map", "order_column", "event_column", "users", "items")
PROGRAMS = {"duality": "duality", "torchrun": "torch.distributed.run"}
SKIPPED = ("pip ", "pytest", "python benchmarks/", "python -m venv")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    parts = [part.strip() for line in lines if not line.startswith("#") for part in line.split("&&")]
    return [part for part in parts if part and not part.startswith(SKIPPED)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages assume: events.csv, items.csv, a campaign file and the recipes."""
    root = tmp_path_factory.mktemp("docs")
    pacsv.write_csv(synthetic_log(), root / "events.csv")
    pacsv.write_csv(synthetic_items().drop_columns(["genres"]), root / "items.csv")
    (root / "log").mkdir()
    pq.write_table(synthetic_log(), root / "log/interactions.parquet")
    (root / "pipelines").mkdir()
    for recipe in (ROOT / "pipelines").glob("*.toml"):
        text = recipe.read_text(encoding="utf-8")
        kept = [line for line in text.splitlines() if not line.startswith(CLEARED)]
        (root / "pipelines" / recipe.name).write_text("\n".join(kept), encoding="utf-8")
    films = synthetic_items()
    genres = pa.array([["Comedy" if place % 2 else "Thriller"] for place in range(len(films))])
    films = films.set_column(films.schema.get_field_index("genres"), "genres", genres)
    pq.write_table(films, root / "log/items.parquet")
    shutil.copytree(ROOT / "pipelines/campaigns", root / "pipelines/campaigns")
    pacsv.write_csv(synthetic_log().slice(0, 20), root / "week.csv")
    for page in PAGES:
        for block in blocks(page, "toml"):
            (root / "campaigns.toml").write_text(block, encoding="utf-8")
    return root


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_runs(page: Path, folder: Path) -> None:
    environment = {**os.environ, "DUALITY_HOME": ".", "OMP_NUM_THREADS": "1"}
    for line in commands(page):
        words = shlex.split(line, comments=True)
        assert words[0] in PROGRAMS, f"{page.name}: what is `{line}`?"
        extra = SMALLER.get(" ".join(words[words.index("duality") :][:2]), [])
        done = _ran([*words, *extra], folder, environment)
        assert done.returncode == 0, f"{page.name}: {line}\n{done.stderr}"


def _ran(words: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    if words[0] == "duality":
        return command(*words[1:], cwd=folder, env=environment)
    start = [sys.executable, "-m", PROGRAMS[words[0]], *words[1:]]
    return subprocess.run(start, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_python_example_runs(page: Path, folder: Path) -> None:
    for block in blocks(page, "python"):
        environment = {**os.environ, "DUALITY_HOME": ".", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{page.name}:\n{block}\n{done.stderr}"


def test_ci_runs_the_second_command_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^pip install.*$", text, flags=re.M)[:2]
    assert first == 'pip install -e ".[cpu]" && duality demo'
    assert second == 'pip install -e ".[cpu,test]" && pytest'
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    for part in second.split(" && "):
        assert part.replace("pip install", "pip install -q") in script or part in script


def test_every_command_of_the_program_is_documented() -> None:
    from duality.cli.main import COMMANDS

    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in COMMANDS:
        assert f"duality {name}" in text, name
