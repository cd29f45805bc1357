"""Campaign files and whole runs on a small in-memory index."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import click.testing
import numpy as np
import pyarrow.parquet as pq
import pytest

from duality import predicates
from duality.artifacts import checksum
from duality.cli import target as cli_target
from duality.errors import ConfigError, GateError, InputError, UnknownIdError
from duality.targeting.outcome import check_quotas
from duality.targeting.run import target
from duality.targeting.spec import read_campaigns

KINDS = {"country": "string", "age": "number"}


class Users:
    def __init__(self, ids: list[str], vectors: np.ndarray, attributes: list[dict[str, object]]) -> None:
        self.ids, self.vectors, self.attributes = ids, vectors, attributes

    def blocks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)
        for rows in (order[:7], order[7:]):
            yield [self.ids[row] for row in rows], self.vectors[rows]

    def ids_where(self, where: str) -> list[str]:
        predicate = predicates.parse(where)
        predicates.to_sql(predicate, KINDS)
        return [
            text
            for text, row in zip(self.ids, self.attributes, strict=True)
            if predicates.evaluate(predicate, row)
        ]


class Items:
    def __init__(self, ids: list[str], vectors: np.ndarray) -> None:
        self.rows, self.vectors = {text: row for row, text in enumerate(ids)}, vectors

    def get_vectors(self, ids: list[str]) -> np.ndarray:
        for text in ids:
            if text not in self.rows:
                raise UnknownIdError(f"item '{text}' is not stored")
        return self.vectors[[self.rows[text] for text in ids]]

    def matching(self, where: str) -> tuple[list[str], np.ndarray]:
        predicate = predicates.parse(where)
        predicates.to_sql(predicate, {"title": "string"})
        names = [text for text in self.rows if predicates.evaluate(predicate, {"title": text})]
        return names, self.get_vectors(names)


class MemoryIndex:
    fingerprint = "0123456789abcdef"
    moment = 1_700_000_000_000_000
    about = {"model": "m", "dataset": "d"}  # noqa: RUF012

    def __init__(self, order: list[int] | None = None) -> None:
        random = np.random.default_rng(0)
        vectors = random.normal(size=(30, 4)).astype(np.float32)
        attributes: list[dict[str, object]] = [
            {"country": "DE" if row % 2 else "FR", "age": 10 + row} for row in range(30)
        ]
        order = order or list(range(30))
        self.users = Users([f"u{row}" for row in order], vectors[order], [attributes[row] for row in order])
        self.items = Items(["a", "b,c"], random.normal(size=(2, 4)).astype(np.float32))

    def log_rates(self, ids: list[str], days: float) -> np.ndarray:
        return np.array([int(text[1:]) / days for text in ids], np.float32)

    def probabilities(self, scores: np.ndarray, users: list[str]) -> np.ndarray:
        raise InputError("no calibration")

    def takes(self, items: list[list[str]], days: float) -> tuple[np.ndarray, float] | None:
        return None

    def nearest(self, vector: np.ndarray, k: int) -> list[str]:
        best = np.argsort(-(self.users.vectors @ vector), kind="stable")[:k]
        return [self.users.ids[row] for row in best]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


SMALLEST = "[run]\nmin_audience = 1\n"
TWO = """
[run]
min_audience = 1
cap = 1
[[campaign]]
id = "spring"
items = ["a", "b,c"]
size = 6
where = "country = 'DE'"
exclude = "age > 35"
[[campaign]]
id = "like ü"
seed_users = ["u1", "u2"]
size = 4
"""


class Counted(MemoryIndex):
    """Item a was taken twice a day lately, the other ten times, of a hundred events."""

    def takes(self, items: list[list[str]], days: float) -> tuple[np.ndarray, float] | None:
        return np.array([sum({"a": 2.0, "b,c": 10.0}[item] for item in names) for names in items]), 100.0


@pytest.mark.parametrize(
    ("scores", "expected"),
    [("log-probability", [0.02, 0.1, 0.12]), ("log-intensity", [2.0 / 30, 10.0 / 30, 12.0 / 30])],
)
def test_values_add_up_to_what_was_taken_lately(scores: str, expected: list[float], tmp_path: Path) -> None:
    """Of all users the mean probability is the items' share of events, and their intensities are their takes a day."""
    asked = [("a", '["a"]'), ("b", '["b,c"]'), ("both", '["a", "b,c"]')]
    lines = [f'[[campaign]]\nid = "{name}"\nitems = {items}\nquota_max = 30\n' for name, items in asked]
    text = f'[run]\nmin_audience = 1\ncap = 3\nscores = "{scores}"\n' + "".join(lines)
    target(Counted(), write(tmp_path / "c.toml", text), tmp_path / "out")
    rows = pq.read_table(tmp_path / "out/audience.parquet").to_pylist()
    for (name, _), mean in zip(asked, expected, strict=True):
        worth = np.exp([row["score"] for row in rows if row["campaign"] == name])
        assert len(worth) == 30
        assert worth.mean() == pytest.approx(mean, rel=1e-5)
    target(MemoryIndex(), write(tmp_path / "c.toml", text), tmp_path / "plain")
    plain = {
        (r["campaign"], r["user"]): r["rank"]
        for r in pq.read_table(tmp_path / "plain/audience.parquet").to_pylist()
    }
    assert all(plain[row["campaign"], row["user"]] == row["rank"] for row in rows)


def test_audience_holds_the_best_eligible_users(tmp_path: Path) -> None:
    index = MemoryIndex()
    document = target(
        index, write(tmp_path / "c.toml", TWO.split('[[campaign]]\nid = "like')[0]), tmp_path / "out"
    )
    scores = index.users.vectors @ index.items.vectors.mean(axis=0)
    eligible = [row for row in range(30) if row % 2 and 10 + row <= 35]
    best = sorted(eligible, key=lambda row: -scores[row])[:6]
    table = pq.read_table(tmp_path / "out" / "audience.parquet").to_pydict()
    assert table["user"] == [f"u{row}" for row in best]
    assert table["rank"] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(table["score"], scores[best], rtol=1e-6)
    assert document["campaigns"][0]["eligible"] == len(eligible)
    assert document["objective"] == pytest.approx(scores[best].sum(), rel=1e-6)
    assert document["gap"] == pytest.approx(0.0, abs=1e-9)


def test_how_often_users_act_is_added_to_what_they_want(tmp_path: Path) -> None:
    index, run = MemoryIndex(), '[run]\nmin_audience = 1\nscores = "log-intensity"\nrate_days = 2.0\n'
    text = run + '[[campaign]]\nid = "x"\nitems = ["a"]\nsize = 5\n'
    target(index, write(tmp_path / "c.toml", text), tmp_path / "out")
    scores = index.users.vectors @ index.items.vectors[0] + np.arange(30) / 2
    table = pq.read_table(tmp_path / "out" / "audience.parquet").to_pydict()
    assert table["user"] == [f"u{row}" for row in np.argsort(-scores)[:5]]
    np.testing.assert_allclose(table["score"], np.sort(scores)[::-1][:5], rtol=1e-5)
    label = json.loads((tmp_path / "out" / "datalabel.json").read_text())
    assert (
        label["method"]["x"]
        == "log p(item | user) + log of events a day (2 days fading), mean over the items"
    )
    like = run + '[[campaign]]\nid = "x"\nseed_users = ["u1"]\nsize = 5\n'
    with pytest.raises(ConfigError, match="likeness to seed users or a vector has no log-intensity"):
        target(index, write(tmp_path / "c.toml", like), tmp_path / "out")


def test_two_campaigns_share_users_under_the_cap(tmp_path: Path) -> None:
    document = target(MemoryIndex(), write(tmp_path / "c.toml", TWO), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "audience.parquet").to_pydict()
    assert [c["size"] for c in document["campaigns"]] == [6, 4]
    assert len(set(table["user"])) == 10
    assert document["objective"] >= document["greedy_objective"]
    lookalikes = {u for u, c in zip(table["user"], table["campaign"], strict=True) if c == "like ü"}
    assert not lookalikes & {"u1", "u2"}


def test_lookalike_scores_are_centred(tmp_path: Path) -> None:
    index = MemoryIndex()
    campaigns = write(
        tmp_path / "c.toml", SMALLEST + '[[campaign]]\nid = "x"\nseed_users = ["u3", "u4"]\nsize = 28\n'
    )
    target(index, campaigns, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "audience.parquet").to_pydict()
    centred = index.users.vectors - index.users.vectors.mean(axis=0)
    expected = centred @ centred[[3, 4]].mean(axis=0)
    rows = [int(user[1:]) for user in table["user"]]
    np.testing.assert_allclose(table["score"], expected[rows], atol=1e-5)


def test_same_input_same_bytes_whatever_the_stored_order(tmp_path: Path) -> None:
    campaigns = write(tmp_path / "c.toml", TWO)
    target(MemoryIndex(), campaigns, tmp_path / "one")
    target(MemoryIndex(order=list(range(29, -1, -1))), campaigns, tmp_path / "two")
    assert checksum(tmp_path / "one" / "audience.parquet") == checksum(tmp_path / "two" / "audience.parquet")
    target(MemoryIndex(), campaigns, tmp_path / "two")
    for name in ("audience.parquet", "assignment.json", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_manifest_vouches_for_inputs_and_outputs(tmp_path: Path) -> None:
    campaigns = write(tmp_path / "c.toml", TWO)
    document = target(MemoryIndex(), campaigns, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["campaigns_sha256"] == checksum(campaigns)
    assert manifest["index_fingerprint"] == MemoryIndex.fingerprint
    assert manifest["checksums"]["audience.parquet"] == checksum(tmp_path / "out" / "audience.parquet")
    stored = json.loads((tmp_path / "out" / "assignment.json").read_text())
    assert stored == {key: value for key, value in document.items() if key != "out"}


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    campaigns = write(tmp_path / "c.toml", TWO)
    dry = target(MemoryIndex(), campaigns, tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    assert {**dry, "out": None} == {**target(MemoryIndex(), campaigns, tmp_path / "out"), "out": None}


def test_unfilled_slots_are_reported_and_gated(tmp_path: Path) -> None:
    text = SMALLEST + '[[campaign]]\nid = "wide"\nitems = ["a"]\nsize = 50\n'
    document = target(MemoryIndex(), write(tmp_path / "c.toml", text), tmp_path / "out")
    assert document["campaigns"][0] | {"mean_score": 0, "lowest_score": 0, "price": 0} == {
        "id": "wide",
        "size": 30,
        "asked": 50,
        "unfilled": 20,
        "floor": 1,
        "needed": 50,
        "eligible": 30,
        "funnel": [{"step": "users", "left": 30}],
        "mean_score": 0,
        "lowest_score": 0,
        "price": 0,
        "holdout": 0,
        "expanded": 0,
        "index_recall": None,
    }
    with pytest.raises(GateError, match="'wide' 30 of 50"):
        check_quotas(document)


def test_an_audience_under_the_floor_is_refused_and_nothing_written(tmp_path: Path) -> None:
    text = '[[campaign]]\nid = "picky"\nitems = ["a"]\nsize = 5\nmin_score = 1000.0\n'
    picky = write(tmp_path / "c.toml", SMALLEST + text)
    with pytest.raises(GateError, match="nothing was written: 'picky' 0, and 1 is the least"):
        target(MemoryIndex(), picky, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    document = target(MemoryIndex(), picky, tmp_path / "out", dry_run=True)
    assert document["campaigns"][0]["size"] == document["campaigns"][0]["eligible"] == 0
    json.dumps(document, allow_nan=False)
    with pytest.raises(GateError, match="and 100 is the least"):
        target(MemoryIndex(), write(tmp_path / "d.toml", text.replace("1000", "-1000")), tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[campaign]]\nid = "x"\nitems = ["nope"]\nsize = 1', "campaign 'x'.*'nope'"),
        ('[[campaign]]\nid = "x"\nseed_users = ["u1", "u99"]\nsize = 1', "campaign 'x'.*'u99'.*did you mean"),
        ('[[campaign]]\nid = "x"\nitems = ["a"]\nsize = 1\nwhere = "citty = 1"', "campaign 'x'.*position 1"),
    ],
)
def test_campaigns_that_do_not_fit_the_index_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        target(MemoryIndex(), write(tmp_path / "c.toml", text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"write each campaign as \[\[campaign\]\]"),
        ('[campaign]\nid = "x"', r"write each campaign as \[\[campaign\]\]"),
        ('[[campain]]\nid = "x"', "unknown key.*did you mean campaign"),
        ("[run]\ncapp = 2\n" + TWO.split("cap = 1")[1], "unknown key.*did you mean cap"),
        ("[run]\ncap = 0\n" + TWO.split("cap = 1")[1], "run: cap"),
        (
            '[[campaign]]\nid = "x"\nitems = ["a"]\nsize = 1\ninclde = "a"',
            "'x': inclde: unknown key.*include",
        ),
        ('[[campaign]]\nid = "x"\nitems = ["a"]\nseed_users = ["u1"]\nsize = 1', "'x'.*exactly one of them"),
        ('[[campaign]]\nid = "x"\nsize = 1', "'x'.*exactly one of them"),
        ('[[campaign]]\nid = "x"\nitems = ["a"]\nsize = 0', "'x': size"),
        ('[[campaign]]\nid = "x"\nitems = ["a", "a"]\nsize = 1', "'x': items.*twice"),
        ('[[campaign]]\nitems = ["a"]\nsize = 1', "'number 1': id"),
        ('[[campaign]]\nid = "x"\nitems = ["a"]\nsize = 1\n' * 2, "'x': a second campaign"),
        ('[[campaign]]\nid = "x"\nitems = ["a"]\nsize = 1\nmin_score = nan', "'x': min_score"),
        ("campaign = [1]", r"write each campaign as \[\[campaign\]\]"),
    ],
)
def test_bad_campaign_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_campaigns(write(tmp_path / "c.toml", text))


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "thesis.txt", "mine")
    with pytest.raises(InputError, match="holds no assignment"):
        target(MemoryIndex(), write(tmp_path / "c.toml", TWO), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> click.Command:
    """The command, opening the in-memory index."""
    opener = types.ModuleType("duality.workflows.targeting")
    monkeypatch.setattr(opener, "open_for_targeting", lambda path: MemoryIndex(), raising=False)
    monkeypatch.setitem(sys.modules, opener.__name__, opener)
    return cli_target.target


def test_command_prints_one_document(tmp_path: Path, command: click.Command) -> None:
    campaigns = write(tmp_path / "c.toml", TWO)
    arguments = ["--campaigns", str(campaigns), "--out", str(tmp_path / "out"), "--json"]
    result = click.testing.CliRunner().invoke(command, arguments)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == target(MemoryIndex(), campaigns, tmp_path / "out")


def test_command_reports_an_unmet_quota_after_writing(tmp_path: Path, command: click.Command) -> None:
    campaigns = write(tmp_path / "c.toml", SMALLEST + '[[campaign]]\nid = "wide"\nitems = ["a"]\nsize = 50\n')
    result = click.testing.CliRunner().invoke(
        command, ["--campaigns", str(campaigns), "--out", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, GateError)
    assert "wide: 30 of 50 users (30 eligible)" in result.output
    assert (tmp_path / "out" / "audience.parquet").exists()
