"""The scripts behind docs/duality.md, on a small log: what they choose, compare and tell."""

from __future__ import annotations

import itertools
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_worlds import SMALL, synthetic_log

from duality.data.dataset import Dataset
from duality.data.importing import import_events
from duality.errors import InputError
from duality.evaluation.cold import GIVEN
from duality.evaluation.queries import DIRECTIONS
from duality.workflows.recipe import load_recipe
from duality.workflows.train import train

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import backtest
import grid
from study import (
    cold,
    judging,
    measuring,
    round_trips,
    stream_judging,
    stream_replay,
    stream_training,
    training,
)

EPOCHS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty users over a month."""
    log = synthetic_log()
    hours = pa.array(1_700_000_000 + 60 * (log["timestamp"].to_numpy() - 1_700_000_000))
    out = tmp_path_factory.mktemp("study") / "data"
    import_events(log.set_column(2, "timestamp", hours), out)
    return out


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sections: dict[str, list[str]] = {}
    for setting in [*SMALL, f"train.epochs={EPOCHS}", "choose.activity=true"]:
        name, value = setting.split("=")
        section, key = name.rsplit(".", 1)
        sections.setdefault(section, []).append(f"{key} = {value}")
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    # A setting that comes twice: the later one holds.
    lines = {
        s: list({line.split(" = ")[0]: line for line in found}.values()) for s, found in sections.items()
    }
    path.write_text("\n".join(line for s, found in lines.items() for line in (f"[{s}]", *found)))
    return path


@pytest.fixture(scope="module")
def studied(data: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studied")
    names = ("joint", "one-sided", "simple", "leaking", "shared-encoder", "shuffled", "mirror")
    training.train_all(data, recipe, folder, [0], names)
    measuring.measure_all(data, folder, [0], 0)
    judging.judge_all(folder)
    return folder


def test_the_best_control_is_chosen_on_validation_and_compared_on_test(studied: Path) -> None:
    tables = json.loads((studied / "judged.json").read_text())
    assert {(t["direction"], t["pool"]) for t in tables} == {
        ("user-to-item", "all"), ("item-to-user", "all"), ("item-to-user", "time-matched"),
    }  # fmt: skip
    for table in tables:
        validation, key = table["validation"], f"{table['pool']}/"
        with np.load(studied / "values" / f"test.{table['direction']}.0.npz") as test:
            for row in table["comparisons"]:
                place = measuring.METRICS.index(row["metric"])
                ours, other = (test[key + row[end]][:, place].mean() for end in ("first", "second"))
                assert row["difference"] == pytest.approx(ours - other, abs=1e-6)
                assert row["low"] <= row["difference"] <= row["high"]
                assert row["p_holm"] >= row["p"]
        for metric, chosen in table["best_control"].items():
            assert chosen.split(":")[0] != "joint"
            assert chosen not in judging.OURS_ADDED
            rivals = [name for name in validation if name.split(":")[0] not in ("joint", *judging.ABLATIONS)]
            best = max(validation[name][metric] for name in rivals if name not in judging.OURS_ADDED)
            assert validation[chosen][metric] == best
        asked = {row["second"] for row in table["comparisons"]}
        assert {"one-sided", "one-sided: preference", "simple"} <= asked


def test_a_leak_makes_the_next_user_easy_in_training(studied: Path) -> None:
    losses = {
        name: json.loads((studied / "models" / f"{name}-0" / "metrics.json").read_text())["history"][-1][
            "loss"
        ]
        for name in ("joint", "leaking")
    }
    assert losses["leaking"]["next_user"] < losses["joint"]["next_user"]


def test_round_trips_start_at_the_original_and_are_drawn(data: Path, studied: Path, tmp_path: Path) -> None:
    rows = round_trips.measure_all(data, studied, ["joint", "shared-encoder"], [0], turns=2)
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        assert (row["first"], row["rank"]) == (1, 1) if row["turn"] == 0 else row["rank"] >= 1
        assert -1 <= row["cosine"] <= 1 + 1e-6
    assert min(row["cosine"] for row in rows) < 0.999
    round_trips.draw(rows, tmp_path / "trips.svg")
    assert "<svg" in (tmp_path / "trips.svg").read_text()


@pytest.mark.parametrize("split", cold.SPLITS)
def test_cold_rows_are_compared_with_pools_of_both_models(
    data: Path, recipe: Path, split: str, tmp_path: Path
) -> None:
    cold.train_cold(data, recipe, tmp_path, [0], split)
    cold.measure_cold(data, tmp_path, [0], split)
    cold.judge_cold(tmp_path, split)
    tables = json.loads((tmp_path / split / "judged.json").read_text())
    if split == "cold-item":
        others = {f"{model}: {pool}" for model in cold.NAMES for pool in ("centred_mean", "log_odds")}
        others.add("joint: trained")
    else:
        others = {"one-sided: encoder", *(f"{model}: centred_mean" for model in cold.NAMES)}
    assert {(table["direction"], table["given"]) for table in tables} == set(
        itertools.product(DIRECTIONS, GIVEN)
    )
    for table in tables:
        assert others <= {row["second"] for row in table["comparisons"]}
        assert {row["first"] for row in table["comparisons"]} == {cold.OURS}


def test_a_stream_is_asked_before_it_is_told(data: Path, recipe: Path, tmp_path: Path) -> None:
    days = 3
    stream_training.train_all(data, recipe, tmp_path, days, [0])
    stream_replay.replay_all(data, tmp_path, days, [0])
    stream_judging.judge_all(tmp_path)
    dataset = Dataset.open(data)
    starts = stream_training.mornings(dataset, days)
    time = np.asarray(dataset.event_time)
    for day, morning in enumerate(starts):
        before = Dataset.open(tmp_path / "data" / str(day))
        assert before.num_events == int((time < morning).sum())
    with np.load(tmp_path / "values" / "0.npz") as values:
        queries = len(values["user-to-item/cluster"])
        assert 0 < queries <= int((time >= starts[0]).sum())
        ways = ("frozen", "daily updates", "hourly updates", "daily retraining")
        tables = {way: values[f"user-to-item/all/{way}"] for way in ways}
    assert all(table.shape == (queries, len(measuring.METRICS)) for table in tables.values())
    # On the first day all but the hourly one know the same; later they differ.
    assert not np.array_equal(tables["frozen"], tables["daily updates"])
    told = Dataset.open(
        tmp_path / "indexes/0/daily/data" / "versions" / _newest(tmp_path / "indexes/0/daily/data")
    )
    assert told.num_events == dataset.num_events
    judged = json.loads((tmp_path / "judged.json").read_text())
    assert judged["seconds"][0]["daily updates"] > 0


def _newest(home: Path) -> str:
    return max(path.name for path in (home / "versions").iterdir() if path.is_dir())


def test_a_grid_trains_its_variants_and_compares_them_with_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = {"rotary": [], "cut": ["train.newest_items=2"], "sasrec": ["model.user_encoder.name=sasrec"]}
    one_sided = [f"loss.{term}=0" for term in ("users_compete", "next_user", "items_compete", "cycle_item")]
    chosen = ["model.dim=16", "train.epochs=6", "train.rows=200", "loss.cycle_user=0", *one_sided]
    chosen.append("train.learning_rate=0.02")
    text = f'against = "rotary"\nsettings = {json.dumps(chosen)}\n[variants]\n'
    path = tmp_path / "small.toml"
    path.write_text(text + "".join(f"{name} = {json.dumps(given)}\n" for name, given in variants.items()))
    folder = tmp_path / "models"
    asked = ["grid.py", str(path), "--data", str(data), "--folder", str(folder), "--seeds", "0,1"]
    monkeypatch.setattr(sys, "argv", [*asked, "--figure", str(tmp_path / "differences.svg")])
    grid.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[:2] for line in lines[1:]] == [
        ["| rotary", "2"],
        ["| cut", "2"],
        ["| sasrec", "2"],
    ]
    report = json.loads((folder / "compared.json").read_text())["user-to-item"]
    values = {name: model["metrics"]["ndcg@10"]["value"] for name, model in report["models"].items()}
    assert f"| {values['cut']:.4f} | " in lines[2]
    assert f"{values['cut'] - values['rotary']:+.4f} [" in lines[2]
    assert "– | – |" in lines[1]
    picture = (tmp_path / "differences.svg").read_text(encoding="utf-8")
    assert all(name in picture for name in ("cut", "sasrec", "recall@100", "difference from rotary"))


def test_histories_of_a_two_sided_model_are_not_cut(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is for one-sided models"):
        train(data, tmp_path / "model", load_recipe(None, [*SMALL, "train.newest_items=3"]))


@pytest.mark.parametrize(
    "path", sorted(Path(grid.__file__).parent.glob("grids/*.toml")), ids=lambda p: p.stem
)
def test_every_variant_of_a_grid_is_a_recipe(path: Path) -> None:
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    assert found["against"] in found["variants"]
    recipes = [load_recipe(None, [*found["settings"], *own]) for own in found["variants"].values()]
    assert len({recipe.model_dump_json() for recipe in recipes}) == len(recipes)


def test_a_back_test_asks_who_came_afterwards(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, until = synthetic_log(), 1_700_000_000 + 60 * 400
    pq.write_table(log, tmp_path / "log.parquet")
    options = ["--source", str(tmp_path / "log.parquet"), "--folder", str(tmp_path / "run")]
    options += ["--until", str(until), "--time-column", "timestamp", "--least", "2", "--campaigns", "5"]
    monkeypatch.setattr(sys, "argv", ["backtest.py", *options, "--recipe", str(recipe)])
    backtest.main()
    printed = capsys.readouterr().out
    assert all(f"duality - {control}: precision" in printed for control in backtest.CONTROLS)
    assert "takers expected" in printed
    assert printed.count("  tenth: ") == 10
    assert "not identifiable" in printed
    before, whole = (Dataset.open(tmp_path / "run" / name) for name in ("before", "whole"))
    items, takers = backtest._campaigns(before, whole, None, 5, 2)
    later = log.to_pandas().query("timestamp >= @until")
    for campaign, mine in items.items():
        assert mine == [campaign]
        came = set(later[later.item_id == campaign].user_id)
        assert takers[campaign] <= came
    table = pq.read_table(tmp_path / "run/audience/audience.parquet").to_pylist()
    took = backtest._pairs(before, {item: item for item in before.item_ids.ids(np.arange(before.num_items))})
    assert not {(row["campaign"], row["user"]) for row in table} & {(i, u) for i in items for u in took[i]}


def test_what_a_ranking_is_worth() -> None:
    people = [f"u{number}" for number in range(100)]
    precision, recall, auc, *tenths = backtest._measured(people, {"u0", "u1"})
    assert (precision, recall, auc) == (1.0, 0.5, 1.0)
    assert tenths == [10.0] + [0.0] * 9
    assert backtest._measured(people, {"u99"})[2] == 0.0
