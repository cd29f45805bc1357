"""The evaluation document, and foreign runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from worlds import TableScorer, random_scores, random_world

from duality import metrics
from duality.errors import InputError
from duality.evaluation.baselines import MostPopular
from duality.evaluation.protocol import evaluate
from duality.evaluation.queries import DIRECTIONS, World, make_queries
from duality.evaluation.ranking import rank_full
from duality.evaluation.runs import read_run


class Ids:
    def __init__(self, ids: list[str]) -> None:
        self.rows = {text: row for row, text in enumerate(ids)}

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, ids: list[str]) -> np.ndarray:
        return np.array([self.rows.get(text, -1) for text in ids], dtype=np.int64)


USERS, ITEMS = Ids([f"u{row}" for row in range(12)]), Ids([f"ü{row}" for row in range(9)])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("candidates", ["full", "uniform:3", "popularity:3"])
def test_document_holds_what_was_measured(direction: str, candidates: str) -> None:
    world, hidden = random_world(4)
    queries = make_queries(world, hidden, direction)
    oracle = np.zeros((world.num_sources(direction), world.num_targets(direction)))
    oracle[queries.sources(direction), queries.targets(direction)] = 1.0
    scorers = [TableScorer(oracle, "oracle"), MostPopular(world, direction)]
    document = evaluate(scorers, queries, world, direction, candidates=candidates, ks=(1, 5))
    assert json.loads(json.dumps(document)) == document
    assert document["queries"] == len(queries)
    assert document["candidates"] == candidates
    assert document["protocol"]["dropped"] == dict(queries.dropped)
    baseline = scorers[1].name
    assert set(document["metrics"]) == {
        *(f"{kind}@{k}" for kind in ("ndcg", "recall", "mrr") for k in (1, 5)),
        "recall@100",
        "auc",
        *([f"lift@{p}%" for p in (1, 5, 10)] if direction == "item-to-user" else []),
    }
    assert ("time_matched" in document) == (direction == "item-to-user" and candidates == "full")
    for name, difference in document["comparisons"][baseline].items():
        ours, theirs = document["metrics"][name], document["baselines"][baseline][name]
        assert ours["low"] <= ours["value"] <= ours["high"]
        assert difference["difference"] == pytest.approx(ours["value"] - theirs["value"])


def test_values_are_means_of_the_metrics() -> None:
    world, hidden = random_world(6)
    queries = make_queries(world, hidden, "user-to-item")
    scorer = TableScorer(random_scores(6, world, "user-to-item"))
    document = evaluate([scorer], queries, world, "user-to-item")
    ranks, candidates = rank_full(scorer, queries, world, "user-to-item")
    for name, numbers in document["metrics"].items():
        assert numbers["value"] == pytest.approx(metrics.per_query(name, ranks, candidates).mean())
    assert document["baselines"] == document["comparisons"] == {}


def test_a_cutoff_beyond_the_catalogue_is_refused() -> None:
    world, hidden = random_world(6)
    queries = make_queries(world, hidden, "user-to-item")
    with pytest.raises(InputError, match="k = 10 is more than the 9 candidates"):
        evaluate([MostPopular(world, "user-to-item")], queries, world, "user-to-item", ks=(5, 10))


def test_no_query_left_is_bad_input() -> None:
    world, hidden = random_world(6)
    queries = make_queries(world, hidden[:0], "user-to-item")
    with pytest.raises(InputError, match="no query left"):
        evaluate([MostPopular(world, "user-to-item")], queries, world, "user-to-item")


def test_two_scorers_of_one_name_are_refused() -> None:
    world, hidden = random_world(6)
    queries = make_queries(world, hidden, "user-to-item")
    with pytest.raises(ValueError, match="own name"):
        evaluate([MostPopular(world, "user-to-item")] * 2, queries, world, "user-to-item")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("form", ["rank.csv", "score.parquet", "rank.tsv"])
def test_a_full_run_ranks_like_its_scores(tmp_path: Path, direction: str, form: str) -> None:
    world, hidden = random_world(7)
    queries = make_queries(world, hidden, direction)
    table = np.random.default_rng(7).permuted(
        np.tile(np.arange(1.0, world.num_targets(direction) + 1), (world.num_sources(direction), 1)), axis=1
    )
    path = tmp_path / f"mine.{form}"
    write_run(path, table, direction, column=form.split(".")[0])
    query_ids, target_ids = (USERS, ITEMS) if direction == "user-to-item" else (ITEMS, USERS)
    run = read_run(path, query_ids=query_ids, target_ids=target_ids, direction=direction)
    expected = rank_full(TableScorer(table), queries, world, direction)
    np.testing.assert_array_equal(rank_full(run, queries, world, direction), expected)


def write_run(path: Path, table: np.ndarray, direction: str, column: str) -> None:
    query_ids, target_ids = (USERS, ITEMS) if direction == "user-to-item" else (ITEMS, USERS)
    queries, targets = list(query_ids.rows), list(target_ids.rows)
    rows = [(q, t, table[a, b]) for a, q in enumerate(queries) for b, t in enumerate(targets)]
    values = [len(targets) + 1 - int(v) if column == "rank" else v for _, _, v in rows]
    frame = pa.table({"query": [r[0] for r in rows], "id": [r[1] for r in rows], column: values})
    if path.suffix == ".parquet":
        pq.write_table(frame, path)
        return
    mark = "\t" if path.suffix == ".tsv" else ","
    lines = [
        mark.join(["query", "id", column]),
        *(mark.join([q, t, str(v)]) for (q, t, _), v in zip(rows, values)),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_unlisted_target_is_last(tmp_path: Path) -> None:
    world, hidden = random_world(7)
    queries = make_queries(world, hidden, "user-to-item")
    path = tmp_path / "short.csv"
    path.write_text("query,id,rank\n")
    run = read_run(path, query_ids=USERS, target_ids=ITEMS, direction="user-to-item")
    ranks, candidates = rank_full(run, queries, world, "user-to-item")
    np.testing.assert_array_equal(ranks, candidates)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,id,rank\nu0,ü1,1\nnobody,ü2,2\n", "row 2.*'query'.*nobody"),
        ("query,id,score\nu0,ü1,1\nu1,nothing,2\n", "row 2.*'id'.*nothing"),
        ("query,id,score\nu0,ü1,0.5\nu0,ü1,0.4\n", "row 2.*twice"),
        ("query,id,score\nu0,ü1,nan\n", "row 1.*not a number"),
        ("query,id,score\nu0,ü1,high\n", "not a number"),
        ("query,item,score\nu0,ü1,1\n", "needs columns query, id"),
        ("query,id\nu0,ü1\n", "rank or score"),
        ("", "cannot be read"),
    ],
)
def test_bad_runs_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_run(path, query_ids=USERS, target_ids=ITEMS, direction="user-to-item")
    assert "run.csv" in str(caught.value)


def test_missing_run_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        read_run(tmp_path / "x.csv", query_ids=USERS, target_ids=ITEMS, direction="user-to-item")


def test_sampled_numbers_come_with_an_estimate_of_the_full_ones() -> None:
    random = np.random.default_rng(5)
    users, items = 600, 150
    user = np.repeat(np.arange(users, dtype=np.int32), 2)
    item = np.stack([random.permutation(items)[:2] for _ in range(users)]).astype(np.int32).ravel()
    visible = np.arange(len(user)) % 2 == 0
    world = World(users, items, visible, visible, user, item)
    queries = make_queries(world, np.flatnonzero(~visible), "user-to-item")
    table = random.normal(size=(users, items))
    table[queries.user, queries.item] += 1.5
    scorer = TableScorer(table)
    full = evaluate([scorer], queries, world, "user-to-item", ks=(10,))
    sampled = evaluate([scorer], queries, world, "user-to-item", ks=(10,), candidates="uniform:50")
    assert "corrected" not in full
    truth, naive = (part["metrics"]["ndcg@10"]["value"] for part in (full, sampled))
    estimate = sampled["corrected"]["metrics"]["ndcg@10"]
    assert estimate["low"] is None
    assert naive > truth + 0.15
    assert abs(estimate["value"] - truth) < 0.04
