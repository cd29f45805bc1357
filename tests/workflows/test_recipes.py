"""Recipes run, skip what is up to date, and run again what is not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_worlds import ONE_SIDED, SHARED, SMALL

from duality.errors import ConfigError
from duality.workflows.recipe import load_recipe
from duality.workflows.run import import_section, run
from duality.workflows.train import METRICS, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_folder: Path) -> Path:
    monkeypatch.setenv("DUALITY_HOME", str(tmp_path))
    (tmp_path / "r.toml").write_text(f'[import]\nsource = "{log_folder}"\n[evaluate]\nbaselines = false\n')
    return tmp_path


def test_a_second_run_skips_and_a_changed_setting_does_not(home: Path) -> None:
    def skipped(*settings: str) -> list[bool]:
        return [stage["skipped"] for stage in run(home / "r.toml", [*SMALL, *settings]).values()]

    assert skipped() == [False] * 4
    assert skipped() == [True] * 4
    assert skipped("evaluate.k=[7]") == [True, True, True, False]
    assert skipped("index.spec=hnsw", "evaluate.k=[7]") == [True, True, False, True]
    assert skipped("train.seed=1", "index.spec=hnsw", "evaluate.k=[7]") == [True, False, False, False]
    shutil.rmtree(home / "indexes/default")
    assert skipped("train.seed=1", "index.spec=hnsw", "evaluate.k=[7]") == [True, True, False, True]


def test_an_interrupted_recipe_goes_on_where_it_was(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import duality.workflows.run as module

    def interrupted(*args: object, **options: object) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "build_index", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(home / "r.toml", SMALL)
    monkeypatch.undo()
    monkeypatch.setenv("DUALITY_HOME", str(home))
    assert [s["skipped"] for s in run(home / "r.toml", SMALL).values()] == [True, True, False, False]


CAMPAIGNS = """
[run]
min_audience = 1
[[campaign]]
id = "new"
items_where = "year >= 2010"
size = 12
"""


def test_from_a_log_to_audiences_and_the_week_after_without_training(
    home: Path, monkeypatch: pytest.MonkeyPatch, log_folder: Path
) -> None:
    pytest.importorskip("jinja2", reason="the extra `report` is not installed")
    (home / "campaigns.toml").write_text(CAMPAIGNS)
    target = '[target]\ncampaigns = "campaigns.toml"\nout = "audience"\n'
    (home / "r.toml").write_text((home / "r.toml").read_text() + target)
    first = run(home / "r.toml", SMALL)
    assert [stage["skipped"] for stage in first.values()] == [False] * 5
    assert first["target"]["campaigns"][0]["size"] == 12
    assert (home / "audience/report.html").exists()
    assert run(home / "r.toml", SMALL)["target"]["skipped"]
    log = pq.read_table(log_folder / "interactions.parquet")
    last = log.sort_by([("timestamp", "descending")]).slice(0, 30)
    later = pc.add(last["timestamp"], 100_000)
    week = last.set_column(last.schema.get_field_index("timestamp"), "timestamp", later)
    pq.write_table(week, home / "week.parquet")
    (home / "w.toml").write_text(f'[update]\nevents = "week.parquet"\n{target}')
    before = (home / "audience/datalabel.json").read_text()
    weekly = run(home / "w.toml")
    assert list(weekly) == ["update", "target"]
    assert weekly["update"]["events"] == 30
    assert not weekly["target"]["skipped"]
    assert (home / "audience/datalabel.json").read_text() != before
    assert [stage["skipped"] for stage in run(home / "w.toml").values()] == [True, True]
    (home / "campaigns.toml").write_text(CAMPAIGNS.replace("12", "13"))
    assert [stage["skipped"] for stage in run(home / "w.toml").values()] == [True, False]


def test_unknown_sections_are_refused(home: Path) -> None:
    (home / "bad.toml").write_text("[trian]\nepochs = 3\n")
    with pytest.raises(ConfigError, match=r"trian: unknown key \(did you mean train"):
        run(home / "bad.toml")
    (home / "bad.toml").write_text("[train\n")
    with pytest.raises(ConfigError, match="line 1"):
        run(home / "bad.toml")


def test_what_is_chosen_on_both_directions_is_validated_on_both(world: Path, tmp_path: Path) -> None:
    alone = "train.validate_item_to_user=false"
    with pytest.raises(ConfigError, match=r"set train\.validate_item_to_user to true"):
        load_recipe(None, [alone])
    with pytest.raises(ConfigError, match=r"set train\.validate_item_to_user to true"):
        load_recipe(None, [alone, *ONE_SIDED, "choose.activity=true"])
    recipe = load_recipe(None, [alone, *SMALL, *ONE_SIDED, "train.epochs=1"])
    validation = train(world / "datasets/default", tmp_path / "model", recipe)["validation"]
    assert validation.keys() == {f"user_to_item.{name}" for name in METRICS}


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.toml")), ids=lambda p: p.name)
def test_shipped_recipes_load_and_state_their_result(path: Path) -> None:
    load_recipe(path)
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    for word in ("Purpose", "Command", "Date", "Hardware", "Result"):
        assert re.search(rf"^# {word} +\S", header, flags=re.M), f"{path.name} lacks {word}"


def test_the_demo_recipe_of_the_package_is_the_one_in_pipelines() -> None:
    inside = ROOT / "duality/workflows/recipes/demo.toml"
    assert inside.read_text() == (ROOT / "pipelines/demo.toml").read_text()


@pytest.mark.skipif(not (SHARED / "sasrec-ml-1m").exists(), reason="the shared datasets are not here")
def test_the_ml1m_recipe_joins_real_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALITY_HOME", str(ROOT))
    document = import_section(load_recipe(ROOT / "pipelines/ml1m.toml").import_, tmp_path / "d")
    assert (document["users"], document["items"], document["events"]) == (6040, 3416, 999_611)
    assert document["timed"]
    assert document["order_disagrees_with_time"] == 0
