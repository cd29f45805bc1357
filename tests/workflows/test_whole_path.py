"""From a log to answers: what a user of the library or the command line sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import command

import duality
from duality.data.dataset import Dataset
from duality.embeddings import bias_now, stored_item_vectors
from duality.errors import InputError, UnknownIdError
from duality.model.folder import ModelFolder
from duality.workflows.index import Index


def run(world: Path, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command in its own process, started in `world`."""
    environment = {**os.environ, "DUALITY_HOME": str(world), "OMP_NUM_THREADS": "1"}
    done = command(*args, env=environment)
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr
    return done


def answer(world: Path, *args: str) -> dict:
    return json.loads(run(world, *args, "--json").stdout)


def seen(world: Path, user: str) -> list[str]:
    dataset = Dataset.open(world / "datasets/default")
    row = dataset.user_ids.row(user)
    events = dataset.event_item[dataset.user_indptr[row] : dataset.user_indptr[row + 1]]
    return dataset.item_ids.ids(events)


def test_query_by_id_ranks_unseen_items_by_log_probability(world: Path) -> None:
    document = answer(world, "query", "--user", "u3", "-k", "5")
    ids = [row["id"] for row in document["results"]]
    assert document["query"] == {"user": "u3"}
    assert [row["rank"] for row in document["results"]] == [1, 2, 3, 4, 5]
    assert not set(ids) & set(seen(world, "u3"))
    assert set(document["results"][0]["attributes"]) >= {"title", "year", "genres"}
    model = ModelFolder.open(world / "models/default").load()
    with Index.open(world / "indexes/default") as index:
        user, item = index.users.vectors(["u3"])[0], index.items.vectors(ids[:1])[0]
    logits = model.item_table.detach().numpy() @ user[:-3]
    dataset = Dataset.open(world / "datasets/default")
    row = dataset.item_ids.row(ids[0])
    made = stored_item_vectors(model, dataset, np.ones(dataset.num_events, bool))[row]
    log_p = made[:-3] @ user[:-3] + made[-1] - made[-3] * np.log(np.exp(logits).sum())
    lately = bias_now(model.popularity, dataset, dataset.event_item, 60)[row]
    lately += bias_now(model.activity, dataset, dataset.event_user, 60)[dataset.user_ids.row("u3")]
    assert document["results"][0]["score"] == pytest.approx(log_p + lately, abs=1e-4)
    assert float(user @ item) == pytest.approx(log_p + lately, abs=1e-4)


def test_include_seen_and_where(world: Path) -> None:
    everything = answer(world, "query", "--user", "u3", "-k", "60", "--include-seen")
    assert {row["id"] for row in everything["results"]} == {f"i{n}" for n in range(60)}
    some = answer(
        world, "query", "--user", "u3", "-k", "60", "--where", "year >= 2000 and genres contains 'G1'"
    )
    assert some["results"]
    for row in some["results"]:
        assert row["attributes"]["year"] >= 2000
        assert row["attributes"]["genres"] == ["G1"]


def test_a_raw_history_answers_like_the_user_who_has_it(world: Path) -> None:
    history = ",".join(seen(world, "u3"))
    by_id = answer(world, "query", "--user", "u3")["results"]
    raw = answer(world, "query", "--history", history)["results"]
    assert [row["id"] for row in raw] == [row["id"] for row in by_id]
    # A raw history says nothing of when, so the user's activity is missing, the same in every score.
    apart = np.array([r["score"] for r in by_id]) - [r["score"] for r in raw]
    np.testing.assert_allclose(apart, apart[0], atol=1e-4)


def test_users_for_an_item_and_for_a_raw_audience(world: Path) -> None:
    dataset = Dataset.open(world / "datasets/default")
    has = {u for u in dataset.user_ids.ids(range(60)) if "i2" in seen(world, u)}
    users = [row["id"] for row in answer(world, "query", "--item", "i2", "-k", "60")["results"]]
    assert set(users) == set(dataset.user_ids.ids(range(60))) - has
    audience = answer(world, "query", "--audience", "u1,u5,u9", "-k", "60")["results"]
    assert len(audience) == 57
    assert not {"u1", "u5", "u9"} & {row["id"] for row in audience}


def test_unknown_ids_exit_2_and_suggest(world: Path) -> None:
    assert "did you mean" in run(world, "query", "--user", "u33333", code=2).stderr
    assert "i3" in run(world, "query", "--history", "i3,ii3", code=2).stderr
    assert "exactly one" in run(world, "query", "--user", "u1", "--item", "i1", code=2).stderr
    assert "yaer" in run(world, "query", "--user", "u1", "--where", "yaer > 1", code=2).stderr
    assert (
        "duality index build"
        in run(world, "query", "--index", str(world / "none"), "--user", "u1", code=2).stderr
    )


def test_query_by_id_does_not_import_torch(world: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from duality.workflows.query import answer\n"
        f"assert answer(Path({str(world / 'indexes/default')!r}), user='u3')['results']\n"
        "heavy = {'torch', 'pyarrow', 'duckdb'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("side", ["users", "items"])
def test_recommend_agrees_with_query(world: Path, tmp_path: Path, side: str) -> None:
    document = answer(
        world, "recommend", f"--{side}", "all", "-k", "4", "--out", str(tmp_path / "recs.parquet")
    )
    table = pq.read_table(tmp_path / "recs.parquet")
    assert table.schema.names == ["query", "rank", "id", "score"]
    assert document["queries"] == 60
    assert document["rows"] == len(table) == 4 * document["queries"]
    one = table.slice(4 * 7, 4).to_pydict()
    row = answer(world, "query", f"--{side[:-1]}", one["query"][0], "-k", "4")["results"]
    assert one["id"] == [r["id"] for r in row]
    np.testing.assert_allclose(one["score"], [r["score"] for r in row], atol=1e-5)


def test_recommend_for_a_file_of_ids_and_its_refusals(world: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("id\nu1\nu2\n")
    out = tmp_path / "r.parquet"
    assert answer(world, "recommend", "--users", str(tmp_path / "ids.csv"), "--out", str(out))["queries"] == 2
    kept = out.read_bytes()
    (tmp_path / "ids.csv").write_text("id\nu1\nnobody\n")
    assert (
        "nobody"
        in run(world, "recommend", "--users", str(tmp_path / "ids.csv"), "--out", str(out), code=2).stderr
    )
    assert out.read_bytes() == kept
    run(world, "recommend", "--out", str(out), code=2)


def test_evaluate_reports_both_directions_with_intervals_and_baselines(world: Path) -> None:
    report = answer(world, "evaluate", "--baselines")
    for direction, popular in (("user-to-item", "most_popular"), ("item-to-user", "most_active")):
        part = report[direction]
        assert part["queries"] == 60
        ndcg = part["metrics"]["ndcg@10"]
        assert 0 <= ndcg["low"] <= ndcg["value"] <= ndcg["high"] <= 1
        assert popular in part["baselines"]
        # Users who rate all the time hide who wants what: 60 queries tell no more than "not upside down".
        assert part["metrics"]["auc"]["value"] > (0.5 if direction == "user-to-item" else 0.4)
    sampled = answer(world, "evaluate", "--candidates", "uniform:10", "--direction", "user-to-item")
    assert sampled["user-to-item"]["candidates"] == "uniform:10"
    assert sampled["user-to-item"]["metrics"]["recall@10"]["value"] > 0.7


def test_evaluate_refuses_what_would_not_be_honest(world: Path) -> None:
    assert "temporal" in run(world, "evaluate", "--protocol", "temporal", code=2).stderr
    assert "split.name=cold-item" in run(world, "evaluate", "--protocol", "cold-item", code=2).stderr
    assert "--direction" in run(world, "evaluate", "--run", "x.csv", code=2).stderr


def test_somebody_elses_lists_are_measured_on_the_same_queries(world: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(world / "datasets/default")
    targets = dataset.item_ids.ids(dataset.event_item[dataset.user_indptr[1:] - 1])
    perfect = pa.table({"query": dataset.user_ids.ids(range(60)), "id": targets, "rank": [1] * 60})
    pq.write_table(perfect, tmp_path / "run.parquet")
    report = answer(world, "evaluate", "--run", str(tmp_path / "run.parquet"), "--direction", "user-to-item")
    assert report["user-to-item"]["metrics"]["ndcg@10"]["value"] == 1.0


def test_embed_writes_what_the_index_holds(world: Path, tmp_path: Path) -> None:
    document = answer(world, "embed", "--out", str(tmp_path / "e"))
    assert document == {"users": 60, "items": 60, "dim": 19}
    table = pq.read_table(tmp_path / "e/users.parquet")
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 19)
    with duality.Index.open(world / "indexes/default") as index:
        stored = index.users.vectors(table.column("id").to_pylist()[:5])
    np.testing.assert_allclose(np.stack(table.column("vector").to_pylist()[:5]), stored, atol=1e-5)


@pytest.mark.parametrize("spec", ["hnsw", "ivf"])
def test_other_index_kinds_answer_like_exact(world: Path, tmp_path: Path, spec: str) -> None:
    document = duality.build_index(world / "models/default", tmp_path / spec, spec=spec)
    assert document["kind"] == spec
    with duality.Index.open(tmp_path / spec) as index, duality.Index.open(world / "indexes/default") as exact:
        for user in ("u1", "u2", "u3"):
            ids, scores = index.recommend_items(user, k=5)
            expected, true = exact.recommend_items(user, k=5)
            assert len(set(ids) & set(expected)) >= 4
            assert scores[0] == pytest.approx(true[0], abs=1e-4)


def test_an_item_without_training_events_gets_a_generated_vector(tmp_path: Path, log_folder: Path) -> None:
    """`fresh` is met only by events that the split hides, so training never sees it."""
    log = pq.read_table(log_folder / "interactions.parquet")
    late = pa.table(
        {"user_id": ["u1", "u2", "u5"], "item_id": ["fresh"] * 3, "timestamp": [1_800_000_000] * 3}
    )
    duality.import_events(pa.concat_tables([log, late]), tmp_path / "d")
    settings = ["model.dim=16", "train.epochs=3", "train.rows=200"]
    duality.train(tmp_path / "d", tmp_path / "m", settings=settings)
    duality.build_index(tmp_path / "m", tmp_path / "i")
    with duality.Index.open(tmp_path / "i") as index:
        records, _ = index.items.get(["fresh", "i1"])
        assert [r["attributes"]["generated"] for r in records] == [True, False]
        users, scores = index.recommend_users("fresh", k=100)
        assert len(users) == 57
        assert not {"u1", "u2", "u5"} & set(users)
        assert np.isfinite(scores).all()


def test_python_and_command_line_agree_and_errors_are_typed(world: Path) -> None:
    with duality.Index.open(world / "indexes/default") as index:
        ids, scores = index.recommend_items(user="u7", k=3)
        assert ids == [r["id"] for r in answer(world, "query", "--user", "u7", "-k", "3")["results"]]
        assert (np.diff(scores) <= 0).all()
        sampled = [index.recommend_items("u7", k=5, temperature=2.0, seed=s)[0] for s in (1, 1, 2)]
        assert sampled[0] == sampled[1] != sampled[2]
        with pytest.raises(UnknownIdError):
            index.recommend_users(item="nothing")
        with pytest.raises(InputError, match="exactly one"):
            index.recommend_items()
    assert set(dir(index)) >= {"users", "items"}


def test_changed_histories_are_noticed(world: Path, tmp_path: Path, log_folder: Path) -> None:
    import shutil

    shutil.copytree(world, tmp_path / "w")
    duality.import_events(log_folder, tmp_path / "w/datasets/default", where="item_id != 'i1'")
    assert "has changed" in run(tmp_path / "w", "query", "--user", "u3", code=2).stderr
    assert run(tmp_path / "w", "query", "--user", "u3", "--include-seen").stdout
    assert "was trained on dataset" in run(tmp_path / "w", "evaluate", code=2).stderr
    weights = tmp_path / "w/models/default/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert "damaged" in run(tmp_path / "w", "embed", "--out", str(tmp_path / "e"), code=1).stderr


def test_doctor_and_unknown_commands(world: Path) -> None:
    assert all(check["ok"] for check in answer(world, "doctor")["checks"])
    assert "did you mean query" in run(world, "qurey", code=2).stderr


def test_targeting_from_the_command_line(world: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        '[run]\nmin_audience = 10\n[[campaign]]\nid = "a"\nitems = ["i1"]\nsize = 10\n'
    )
    out = tmp_path / "out"
    document = answer(world, "target", "--campaigns", str(tmp_path / "c.toml"), "--out", str(out))
    assert document["campaigns"][0]["size"] == 10
    assert len(pq.read_table(out / "audience.parquet")) == 10
    assert document["gap"] == pytest.approx(0, abs=1e-6)
