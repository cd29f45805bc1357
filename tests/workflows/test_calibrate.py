"""From impressions to probabilities in answers, and what must not leak or lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click.testing
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_worlds import SMALL, synthetic_log

import duality
from duality.cli.calibrate import calibrate as command
from duality.cli.query import query as query_command
from duality.data.dataset import Dataset
from duality.data.splits import split_named
from duality.errors import ConfigError, DamageError, DataError, InputError
from duality.model.folder import ModelFolder
from duality.model.two_sided import TwoSided
from duality.workflows.calibrate import calibrate
from duality.workflows.calibration_file import FILE, read_calibration
from duality.workflows.impressions import Impressions, known_events, read_impressions, score_impressions
from duality.workflows.query import answer


def shown(users: int = 60, items: int = 60) -> pa.Table:
    """Every event as a click, and beside it two things not clicked a second earlier or later."""
    log = synthetic_log(users, items)
    random = np.random.default_rng(1)
    time = np.repeat(log["timestamp"].to_numpy(), 3) + np.tile([0, -1, 1], len(log))
    chosen = random.integers(0, items, 3 * len(log)).astype(str).astype(object)
    item = np.array([f"i{n}" for n in chosen], dtype=object)
    item[::3] = log["item_id"].to_pylist()
    label = np.tile([1, 0, 0], len(log))
    user = np.repeat(np.array(log["user_id"].to_pylist(), dtype=object), 3)
    return pa.table({"user_id": user, "item_id": item, "timestamp": time, "is_click": label})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset, model with a time cut, impressions, calibration and index."""
    folder = tmp_path_factory.mktemp("calibrated")
    duality.import_events(synthetic_log(), folder / "datasets/default")
    # Popularity and shares of g change with every event; without them a score is the same at any time.
    plain = ["choose.popularity=false", "choose.generated_share=false"]
    settings = [*SMALL, "split.name=temporal", *plain]
    duality.train(folder / "datasets/default", folder / "models/default", settings=settings)
    pq.write_table(shown(), folder / "shown.parquet")
    duality.build_index(folder / "models/default", folder / "indexes/default", spec="exact")
    return folder


@pytest.fixture(scope="module")
def document(root: Path) -> dict:
    return calibrate(root / "models/default", root / "shown.parquet")


def opened(root: Path) -> tuple[Dataset, np.ndarray, int]:
    dataset = Dataset.open(root / "datasets/default")
    train = split_named(dataset, "temporal").train
    return dataset, train, int(dataset.event_time[train].max())


def test_the_later_part_measures_what_the_earlier_fitted(root: Path, document: dict) -> None:
    assert document["fitted_on"]["to"] < document["measured_on"]["from"]
    rows = document["fitted_on"]["rows"] + document["measured_on"]["rows"] + sum(document["dropped"].values())
    assert rows == len(shown())
    assert document["chosen"] == min(document["validation_log_loss"], key=document["validation_log_loss"].get)
    assert document["after"]["ece"]["value"] < document["before"]["ece"]["value"]
    assert document["after"]["log_loss"] < document["before"]["log_loss"]
    assert sum(row["rows"] for row in document["reliability"]) == document["measured_on"]["rows"]
    assert sum(row["rows"] for row in document["by_history"]) == document["measured_on"]["rows"]


def test_counts_are_of_events_strictly_before(root: Path) -> None:
    dataset, _, _ = opened(root)
    random = np.random.default_rng(0)
    user = random.integers(0, dataset.num_users + 2, 300)
    time = random.choice(np.asarray(dataset.event_time), 300) + random.integers(-1, 2, 300)
    truth = [int(((dataset.event_user == u) & (dataset.event_time < t)).sum()) for u, t in zip(user, time)]
    assert known_events(dataset, user, time).tolist() == truth


def test_a_score_is_that_of_the_history_before_it_and_no_later_event_moves_it(
    root: Path, tmp_path: Path
) -> None:
    dataset, train, after = opened(root)
    model = ModelFolder.open(root / "models/default").load()
    first = read_impressions(root / "shown.parquet", dataset, after, {})
    scored = score_impressions(model, dataset, first, train)
    cut = np.median(first.time)
    log = synthetic_log()
    late = pa.table(
        {
            "user_id": ["u3"] * 3,
            "item_id": ["i1", "i2", "i5"],
            "timestamp": [int(cut) // 10**6 + n for n in (1, 2, 3)],
        }
    )
    duality.import_events(pa.concat_tables([log, late]), tmp_path / "more")
    more = Dataset.open(tmp_path / "more")
    again = read_impressions(root / "shown.parquet", more, after, {})
    same = ModelFolder.open(root / "models/default").load()
    moved = score_impressions(same, more, again, np.asarray(more.event_time) <= after)
    by_name = lambda d, i: sorted(zip(d.user_ids.ids(i.user), d.item_ids.ids(i.item), i.time))  # noqa: E731
    assert by_name(dataset, first) == by_name(more, again)
    early = first.time <= cut
    np.testing.assert_allclose(moved.score[early], scored.score[early], atol=1e-5)
    u3 = dataset.user_ids.row("u3")
    changed = (first.user == u3) & (first.time > cut + 4 * 10**6)
    assert (moved.known[changed] == scored.known[changed] + 3).all()
    with duality.Index.open(root / "indexes/default") as index:
        for place in (0, len(first) - 1):
            events = (dataset.event_user == first.user[place]) & (dataset.event_time < first.time[place])
            history = dataset.item_ids.ids(dataset.event_item[events])
            item = dataset.item_ids.id(int(first.item[place]))
            ids, scores = index.recommend_items(history=history, k=60, include_seen=True)
            assert scored.score[place] == pytest.approx(scores[ids.index(item)], abs=1e-4)
    _check_popularity(model, dataset, first, train, scored.score)


def _check_popularity(
    model: TwoSided, dataset: Dataset, shown: Impressions, train: np.ndarray, without: np.ndarray
) -> None:
    """An index adds popularity to its scores, so they are calibrated with it, as it was at the impression."""
    model.popularity[0], model.popularity[1] = 0.5, 3600.0
    added = score_impressions(model, dataset, shown, train).score - without
    assert dataset.event_time is not None
    for place in (0, len(shown) // 2, len(shown) - 1):
        past = (dataset.event_item == shown.item[place]) & (dataset.event_time < shown.time[place])
        elapsed = (shown.time[place] - dataset.event_time[past]) / 1e6
        expected = max(np.log(np.exp(-elapsed / 3600.0).sum() + 1e-300), -30.0)
        assert added[place] == pytest.approx(0.5 * expected, abs=1e-4)


def test_impressions_that_cannot_be_used_are_counted_or_refused(root: Path, tmp_path: Path) -> None:
    dataset, _, after = opened(root)
    last = synthetic_log()["timestamp"].to_numpy().max() + 10
    rows = {"user_id": ["u1", "new", "u2", "u1"], "item_id": ["i1", "i1", "what", "i2"]}
    table = pa.table({**rows, "timestamp": [last, last, last, 5], "is_click": [1, 0, 1, 1]})
    pq.write_table(table, tmp_path / "few.parquet")
    found = read_impressions(tmp_path / "few.parquet", dataset, after, {})
    assert dict(found.dropped) == {"not after the training events": 1, "item unknown": 1}
    assert sorted(found.user.tolist()) == sorted([dataset.user_ids.row("u1"), dataset.num_users])
    assert known_events(dataset, found.user, found.time).min() == 0
    with pytest.raises(InputError, match="temporal"):
        read_impressions(tmp_path / "few.parquet", dataset, int(last) * 10**6 + 1, {})
    with pytest.raises(DataError, match="name it with --label"):
        pq.write_table(table.drop_columns(["is_click"]), tmp_path / "none.parquet")
        read_impressions(tmp_path / "none.parquet", dataset, after, {})
    with pytest.raises(DataError, match="row 2, column 'is_click'"):
        labels = pa.array([1.0, None, 0.0, 1.0])
        pq.write_table(table.set_column(3, "is_click", labels), tmp_path / "gap.parquet")
        read_impressions(tmp_path / "gap.parquet", dataset, after, {})


def test_answers_carry_the_probability_of_their_score(root: Path, document: dict) -> None:
    stored = read_calibration(root / "models/default", ModelFolder.open(root / "models/default").fingerprint)
    dataset, _, _ = opened(root)
    lengths = np.diff(dataset.user_indptr)
    for asked, known in (
        ({"user": "u3"}, lambda ids: lengths[dataset.user_ids.row("u3")]),
        ({"history": ["i1", "i2"]}, lambda ids: 2),
        ({"item": "i4"}, lambda ids: lengths[[dataset.user_ids.row(u) for u in ids]]),
        ({"audience": ["u1", "u2"]}, lambda ids: lengths[[dataset.user_ids.row(u) for u in ids]]),
    ):
        results = answer(root / "indexes/default", **asked, k=5, probabilities=True)["results"]
        scores = np.array([r["score"] for r in results])
        expected = stored(scores, known([r["id"] for r in results]))
        np.testing.assert_allclose([r["probability"] for r in results], expected, rtol=1e-6)
        assert "probability" not in answer(root / "indexes/default", **asked, k=5)["results"][0]


def test_sampled_answers_carry_both_probabilities_and_recommend_draws_the_same(
    root: Path, document: dict, tmp_path: Path
) -> None:
    asked = answer(root / "indexes/default", user="u3", k=4, temperature=1.5, seed=7)
    assert asked["sampling"]["temperature"] == 1.5
    assert asked["sampling"]["candidates"] == 60 - len(seen(root, "u3"))
    for row in asked["results"]:
        assert 0 < row["draw_probability"] < row["inclusion_probability"] <= 1
    with duality.Index.open(root / "indexes/default") as index:
        sample = index.sample_items("u3", k=4, temperature=1.5, seed=7)
        assert sample.ids == [r["id"] for r in asked["results"]]
        assert sample.ids == index.recommend_items("u3", k=4, temperature=1.5, seed=7)[0]
        everything = index.sample_items("u3", k=60, temperature=1.5, exact=True)
        assert everything.draw_probability.sum() == pytest.approx(1)
        users = index.sample_users("i4", k=3, temperature=1.0)
        assert len(users.ids) == 3
        from duality.workflows.recommend import recommend

        out = tmp_path / "r.parquet"
        recommend(index, "users", "all", out, k=4, temperature=1.5, seed=7, probabilities=True)
    table = pq.read_table(out)
    assert table.schema.names[4:] == ["draw_probability", "inclusion_probability", "probability"]
    mine = table.filter(pa.compute.equal(table["query"], "u3")).to_pydict()
    assert mine["id"] == sample.ids
    np.testing.assert_allclose(mine["inclusion_probability"], sample.inclusion_probability, rtol=1e-4)
    one = answer(root / "indexes/default", user="u3", k=60, probabilities=True)["results"]
    by_id = {r["id"]: r["probability"] for r in one}
    np.testing.assert_allclose(mine["probability"], [by_id[i] for i in mine["id"]], rtol=1e-4)


def seen(root: Path, user: str) -> set[str]:
    log = synthetic_log()
    return {i for u, i in zip(log["user_id"].to_pylist(), log["item_id"].to_pylist()) if u == user}


def test_targeting_by_probability_counts_expected_takers(root: Path, document: dict, tmp_path: Path) -> None:
    campaigns = tmp_path / "c.toml"
    text = '[run]\nmin_audience = 1\nscores = "probability"\n[[campaign]]\nid = "a"\nitems = ["i4", "i5"]\nsize = 7\n'
    campaigns.write_text(text)
    run = duality.target(root / "indexes/default", campaigns=campaigns, out=tmp_path / "out")
    audience = pq.read_table(tmp_path / "out/audience.parquet").to_pydict()
    asked = {
        item: {
            r["id"]: r["probability"]
            for r in answer(root / "indexes/default", item=item, k=60, include_seen=True, probabilities=True)[
                "results"
            ]
        }
        for item in ("i4", "i5")
    }
    mean = {user: (asked["i4"][user] + asked["i5"][user]) / 2 for user in asked["i4"]}
    np.testing.assert_allclose(audience["score"], [mean[u] for u in audience["user"]], rtol=1e-4)
    np.testing.assert_allclose(sorted(audience["score"]), sorted(mean.values())[-7:], rtol=1e-4)
    assert run["objective"] == pytest.approx(sum(sorted(mean.values())[-7:]), rel=1e-4)
    assert run["scores"] == "probability"
    campaigns.write_text(text.replace('items = ["i4", "i5"]', 'seed_users = ["u1"]'))
    with pytest.raises(ConfigError, match="seed users"):
        duality.target(root / "indexes/default", campaigns=campaigns, out=tmp_path / "out")


def test_a_missing_damaged_or_foreign_map_is_refused(root: Path, document: dict, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "w")
    index, file = tmp_path / "w/indexes/default", tmp_path / "w/models/default" / FILE
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({**whole, "map": {**whole["map"], "bias": 9.0}}))
    with pytest.raises(DamageError, match="damaged"):
        answer(index, user="u1", probabilities=True)
    with pytest.raises(InputError, match="belongs to weights"):
        read_calibration(root / "models/default", "other")
    file.unlink()
    with pytest.raises(InputError, match="duality calibrate"):
        answer(index, user="u1", probabilities=True)
    with pytest.raises(InputError, match="--temperature"):
        answer(index, user="u1", exact=True)


def test_the_commands_read_their_options(root: Path) -> None:
    runner = click.testing.CliRunner()
    arguments = ["--model", str(root / "models/default"), "--impressions", str(root / "shown.parquet")]
    printed = runner.invoke(command, [*arguments, "--label", "is_click", "--share", "0.6"])
    assert printed.exit_code == 0, printed.output
    assert "softmax score" in printed.stdout
    told = json.loads(runner.invoke(command, [*arguments, "--json"]).stdout)
    assert told["fitted_on"]["rows"] > 0
    options = [
        "--index",
        str(root / "indexes/default"),
        "--user",
        "u1",
        "--probabilities",
        "--temperature",
        "1",
    ]
    line = runner.invoke(query_command, [*options, "--exact"]).stdout.splitlines()[0]
    assert all(word in line for word in ("p 0.", "draw 0.", "incl "))
