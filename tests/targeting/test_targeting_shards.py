"""Runs in shards: the same bytes whatever their number, who is killed goes on, and many users are sampled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click.testing
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_targeting_run import MemoryIndex, write

import duality
from duality.artifacts import checksum
from duality.cli.target import target as command
from duality.errors import InputError
from duality.targeting import assignment, plan, population
from duality.targeting.outcome import document_of, write_run
from duality.targeting.run import Scoring, Work, begin, finish, merged, score, target
from duality.targeting.shards import Part
from duality.workflows.targeting_scale import _by_processes, _by_ray, scoring_by

EVERYTHING = """
[run]
min_audience = 1
cap = 2
contacts = "contacts.parquet"
suppress = ["optout.csv"]
frequency_cap = {n = 2, days = 7}
[[campaign]]
id = "spring"
items = ["a", "b,c"]
size = 6
include = "country = 'DE'"
exclude = "age > 35"
expansion = true
[[campaign]]
id = "like"
seed_users = ["u1", "u2"]
ratio = 0.5
holdout = {fraction = 0.3}
[[campaign]]
id = "rare"
items = ["a"]
quota_max = 9
min_lift = 1.2
min_score = -1.0
"""


@pytest.fixture
def campaigns(tmp_path: Path) -> Path:
    write(tmp_path / "optout.csv", "user\nu4\n")
    times = np.array([MemoryIndex.moment - 1, MemoryIndex.moment - 2], "datetime64[us]")
    pq.write_table(pa.table({"user": ["u9", "u9"], "time": times}), tmp_path / "contacts.parquet")
    return write(tmp_path / "c.toml", EVERYTHING)


def in_shards(count: int) -> Scoring:
    def scoring(work: Work) -> int:
        for number in range(count, 0, -1):  # the order is nobody's business
            score(work, Part(number, count))
        return count

    return scoring


def checksums(out: Path) -> dict[str, str]:
    return {path.name: checksum(path) for path in sorted(out.iterdir())}


@pytest.mark.parametrize("count", [2, 3, 8, 20])
def test_shards_do_not_change_a_byte(
    count: int, campaigns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population, "BLOCK", 4)
    one = target(MemoryIndex(), campaigns, tmp_path / "one")
    many = target(MemoryIndex(), campaigns, tmp_path / "many", scoring=in_shards(count))
    assert checksums(tmp_path / "one") == checksums(tmp_path / "many")
    assert {**one, "out": 0} == {**many, "out": 0}
    excluded = pq.read_table(tmp_path / "many" / "excluded.parquet").to_pylist()
    spring = [row["user"] for row in excluded if row["campaign"] == "spring"]
    assert spring == sorted(spring)
    assert {row["reason"] for row in excluded} >= {"suppressed", "contacted too often", "below min_lift"}
    audience = {
        (row["campaign"], row["user"])
        for row in pq.read_table(tmp_path / "many" / "audience.parquet").to_pylist()
    }
    assert not audience & {(row["campaign"], row["user"]) for row in excluded}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "c.toml",
        "contacts.parquet",
        "many",
        "one",
        "optout.csv",
    ]


def test_steps_are_the_same_run_and_nothing_is_done_twice(
    campaigns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population, "BLOCK", 8)
    target(MemoryIndex(), campaigns, tmp_path / "plain")
    folder = tmp_path / "work"
    work = begin(MemoryIndex(), campaigns, folder)
    assert score(work, Part(1, 2))
    assert not score(begin(MemoryIndex(), campaigns, folder), Part(1, 2))
    with pytest.raises(InputError, match="2 of 4 blocks of users are not scored"):
        merged(work, 2)
    with pytest.raises(InputError, match="2 shards are not merged"):
        finish(work, 2)
    assert score(work, Part(2, 2))
    merged(work, 2)
    outcome = finish(begin(MemoryIndex(), campaigns, folder), 2)
    write_run(tmp_path / "steps", outcome, document_of(outcome), None)
    assert checksums(tmp_path / "steps") == checksums(tmp_path / "plain")
    write(campaigns, EVERYTHING.replace("size = 6", "size = 5"))
    with pytest.raises(InputError, match="was begun with other campaigns"):
        begin(MemoryIndex(), campaigns, folder)


def test_an_interrupted_run_goes_on_and_another_one_starts_anew(
    campaigns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population, "BLOCK", 4)
    scored: list[Part] = []

    def halfway(work: Work) -> int:
        for number in range(1, 5):
            if score(work, Part(number, 4)):
                scored.append(Part(number, 4))
                if len(scored) == 2:
                    raise KeyboardInterrupt
        return 4

    with pytest.raises(KeyboardInterrupt):
        target(MemoryIndex(), campaigns, tmp_path / "out", scoring=halfway)
    assert not (tmp_path / "out").exists()
    target(MemoryIndex(), campaigns, tmp_path / "out", scoring=halfway)
    assert scored == [Part(number, 4) for number in range(1, 5)]
    target(MemoryIndex(), campaigns, tmp_path / "plain")
    assert checksums(tmp_path / "out") == checksums(tmp_path / "plain")
    scored.clear()
    with pytest.raises(KeyboardInterrupt):
        target(MemoryIndex(), campaigns, tmp_path / "out", scoring=halfway)
    write(campaigns, EVERYTHING.replace("size = 6", "size = 5"))
    target(MemoryIndex(), campaigns, tmp_path / "out", scoring=in_shards(4))
    target(MemoryIndex(), campaigns, tmp_path / "plain")
    assert checksums(tmp_path / "out") == checksums(tmp_path / "plain")


def many_users(users: int) -> MemoryIndex:
    index, random = MemoryIndex(), np.random.default_rng(1)
    index.users.ids = [f"u{row:05}" for row in range(users)]
    index.users.vectors = random.normal(size=(users, 4)).astype(np.float32)
    index.users.attributes = [{"country": "DE" if row % 3 else "FR", "age": row % 90} for row in range(users)]
    return index


MANY = """
[run]
min_audience = 1
[[campaign]]
id = "a"
items = ["a"]
size = 300
min_lift = 0.5
[[campaign]]
id = "b"
items = ["b,c"]
size = 300
include = "country = 'DE'"
[[campaign]]
id = "near"
vector = [1.0, 1.0]
ratio = 0.02
"""


def test_a_sample_stands_for_many_users_and_loses_none_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, campaigns = many_users(20_000), write(tmp_path / "c.toml", MANY)
    monkeypatch.setattr(population, "BLOCK", 1_000)
    known = target(index, campaigns, tmp_path / "known")
    monkeypatch.setattr(population, "SAMPLE", 4_000)
    sampled = target(index, campaigns, tmp_path / "sampled", scoring=in_shards(3))
    assert checksum(tmp_path / "known/audience.parquet") != ""
    for name in ("size", "asked"):
        assert [c[name] for c in sampled["campaigns"]] == [c[name] for c in known["campaigns"]]
    b = slice(1, 2)  # nothing of it depends on the average user
    assert sampled["campaigns"][b] == known["campaigns"][b]
    assert sampled["objective"] == pytest.approx(known["objective"], rel=1e-3)
    assert sampled["gap"] == pytest.approx(0, abs=1e-9)
    eligible = [run["campaigns"][0]["eligible"] for run in (sampled, known)]
    assert eligible[0] == pytest.approx(eligible[1], rel=0.05)
    reach = json.loads((tmp_path / "sampled/reach.json").read_text())
    assert reach["curves"] == "of a sample of 4,000 users"
    exact = json.loads((tmp_path / "known/reach.json").read_text())
    for mine, theirs in zip(reach["campaigns"], exact["campaigns"], strict=True):
        assert mine["curve"][4]["lift"] == pytest.approx(theirs["curve"][4]["lift"], rel=0.1)


def test_too_few_pairs_for_all_slots_are_scored_again_with_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "EXACT", 10)
    monkeypatch.setattr(plan, "MORE", 0)
    monkeypatch.setattr(assignment, "EXACT", 10)
    same = "".join(f'[[campaign]]\nid = "{n}"\nitems = ["a"]\nsize = 290\n' for n in range(10))
    document = target(
        many_users(3_000), write(tmp_path / "c.toml", f"[run]\nmin_audience = 1\n{same}"), tmp_path / "out"
    )
    assert document["method"] == "prices"
    assert [c["size"] for c in document["campaigns"]] == [290] * 10
    assert abs(document["gap"]) < 1e-3
    assert "too few pairs to give all slots well" in capsys.readouterr().err


KILLED = """
import sys, time
from pathlib import Path
from duality.targeting import shards
from duality.targeting.run import begin, score
from duality.targeting.shards import Part
sys.path.insert(0, sys.argv[1])
from test_targeting_run import MemoryIndex
def slow(path, array):
    print("writing", flush=True)
    time.sleep(60)
shards.np.save = slow
score(begin(MemoryIndex(), Path(sys.argv[2]), Path(sys.argv[3])), Part(1, 1))
"""


def test_a_shard_killed_while_it_writes_was_not_written(campaigns: Path, tmp_path: Path) -> None:
    arguments = [
        sys.executable,
        "-c",
        KILLED,
        str(Path(__file__).parent),
        str(campaigns),
        str(tmp_path / "w"),
    ]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        os.kill(process.pid, signal.SIGKILL)
    work = begin(MemoryIndex(), campaigns, tmp_path / "w")
    with pytest.raises(InputError, match="none of 1 shards is scored"):
        merged(work, 1)
    assert score(work, Part(1, 1))
    merged(work, 1)
    outcome = finish(work, 1)
    write_run(tmp_path / "out", outcome, document_of(outcome), None)
    target(MemoryIndex(), campaigns, tmp_path / "plain")
    assert checksums(tmp_path / "out") == checksums(tmp_path / "plain")


REAL = """
[run]
min_audience = 5
[[campaign]]
id = "spring"
items_where = "year >= 2010"
size = 20
[[campaign]]
id = "like"
seed_users = ["u1", "u2"]
size = 20
"""


def test_the_command_in_steps(world: Path, tmp_path: Path) -> None:
    index, campaigns = world / "indexes/default", write(tmp_path / "c.toml", REAL)
    duality.target(index, campaigns=campaigns, out=tmp_path / "plain", workers=2)
    shared = ["--index", str(index), "--campaigns", str(campaigns), "--work", str(tmp_path / "work")]
    runner = click.testing.CliRunner()
    for step, said in (
        (["score", "--shard", "1/2"], "shard 1/2 scored"),
        (["score", "--shard", "2/2"], "shard 2/2 scored"),
        (["score", "--shard", "2/2"], "shard 2/2 was scored before"),
        (["merge", "--shards", "2"], "pairs for 40 slots: enough for an exact assignment"),
        (["assign", "--shards", "2", "--out", str(tmp_path / "steps")], "spring: 20 of 20 users"),
    ):
        result = runner.invoke(command, [step[0], *shared, *step[1:]])
        assert said in result.output, result.output
    assert checksums(tmp_path / "steps") == checksums(tmp_path / "plain")
    for shard in ("0/2", "3/2", "one", "1/0"):
        result = runner.invoke(command, ["score", *shared, "--shard", shard])
        assert isinstance(result.exception, InputError), shard
    assert runner.invoke(command, []).exit_code == 2


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_processes_score_shards(engine: str, world: Path, tmp_path: Path) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="the extra `ray` is not installed")
    index, campaigns = world / "indexes/default", write(tmp_path / "c.toml", REAL)
    parts = [Part(1, 2), Part(2, 2)]

    def scoring(work: Work) -> int:
        by = _by_ray if engine == "ray" else _by_processes
        by((index, campaigns, work.folder, work.per_slot), parts, 2)
        return 2

    from duality.workflows.targeting import open_for_targeting

    target(open_for_targeting(index), campaigns, tmp_path / "out", scoring=scoring)
    duality.target(index, campaigns=campaigns, out=tmp_path / "plain")
    assert checksums(tmp_path / "out") == checksums(tmp_path / "plain")


def test_vectors_come_in_the_order_asked_however_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population, "BLOCK", 64)
    index = many_users(1_000)
    people = population.gather(index.users, tmp_path)
    random = np.random.default_rng(0)
    for rows in (random.permutation(1_000), random.integers(0, 1_000, 2), np.empty(0, np.int64)):
        np.testing.assert_array_equal(people.vectors(rows), index.users.vectors[rows])
        assert people.names(rows) == [index.users.ids[row] for row in rows]
    np.testing.assert_array_equal(people.places(["u00007", "u99999", "u00003"])[[3, 7, 8]], [2, 0, -1])


def test_rates_are_those_of_the_log_behind_the_index(world: Path) -> None:
    from duality.data.dataset import Dataset
    from duality.workflows.targeting import open_for_targeting

    index, data = open_for_targeting(world / "indexes/default"), Dataset.open(world / "datasets/default")
    ids, _ = next(index.users.blocks())
    found = index.log_rates([*ids[:5], "stranger"], 7.0)
    assert data.event_time is not None
    age = (data.event_time.max() - data.event_time) / 86.4e9
    for name, rate in zip(ids[:5], found, strict=False):
        mine = data.event_user == data.user_ids.find([name])[0]
        assert rate == pytest.approx(np.log((np.exp(-age[mine] / 7).sum() + 0.5) / 7), abs=1e-4)
    assert found[5] == pytest.approx(np.log(0.5 / 7), abs=1e-6)


def test_who_acted_a_moment_ago_is_left_out_of_what_users_are_worth(world: Path) -> None:
    from duality.workflows.index import Index
    from duality.workflows.targeting import OpenedForTargeting

    opened = Index.open(world / "indexes/default")
    ids, stored = next(opened.pair.users.blocks())
    active = stored.copy()
    active[:, -2] = -1_000.0 * np.arange(len(ids))

    class Active:
        def blocks(self) -> Iterator[tuple[list[str], np.ndarray]]:
            yield ids, active

        def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            assert not vectors[:, -2].any()
            return np.array([ids[:k]], object), np.zeros((1, k), np.float32)

    index = OpenedForTargeting(opened)
    index.users._side = Active()  # type: ignore[assignment]
    _, seen = next(index.users.blocks())
    np.testing.assert_array_equal(np.delete(seen, -2, 1), np.delete(stored, -2, 1))
    assert not seen[:, -2].any()
    assert active[1, -2] == -1_000.0  # what the index holds stays as it is
    assert index.nearest(stored[0], 3) == list(ids[:3])


def test_an_engine_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--engine spark: there is local and ray"):
        scoring_by(tmp_path, tmp_path, engine="spark")
