"""Scoring whom the index finds: the same audiences where it finds everybody, and a true word on what it missed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_targeting_run import MemoryIndex, write
from test_targeting_shards import MANY, checksums, in_shards, many_users

import duality
from duality.errors import ConfigError
from duality.targeting import plan, population
from duality.targeting.run import target
from duality.targeting.scoring import Scorer

INDEXED = MANY.replace("[run]", '[run]\nscoring = "index"', 1)


class Forgetful(MemoryIndex):
    """Every fifth user is not found."""

    def nearest(self, vector: np.ndarray, k: int) -> list[str]:
        return [user for user in super().nearest(vector, k) if int(user[1:]) % 5]


def forgetful(users: int) -> Forgetful:
    index = Forgetful()
    index.users = many_users(users).users
    return index


def audience(out: Path) -> set[tuple[str, str, int]]:
    rows = pq.read_table(out / "audience.parquet").to_pylist()
    return {(row["campaign"], row["user"], row["rank"]) for row in rows}


@pytest.mark.parametrize("sample", [4_000, 50_000])
def test_where_all_are_found_the_audiences_are_those_of_an_exact_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: int
) -> None:
    monkeypatch.setattr(population, "BLOCK", 1_000)
    monkeypatch.setattr(population, "SAMPLE", sample)
    index = many_users(20_000)
    exact = target(index, write(tmp_path / "c.toml", MANY), tmp_path / "exact")
    found = target(index, write(tmp_path / "n.toml", INDEXED), tmp_path / "near", scoring=in_shards(3))
    assert audience(tmp_path / "near") == audience(tmp_path / "exact")
    assert found["objective"] == pytest.approx(exact["objective"], rel=1e-6)
    for campaign in found["campaigns"]:
        assert campaign["index_recall"]["value"] == 1.0
        assert campaign["index_recall"]["looked_for"] >= 60 * (sample > 20_000) + 40
    assert all(campaign["index_recall"] is None for campaign in exact["campaigns"])


def test_only_the_found_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "BLOCK", 1_000)
    monkeypatch.setattr(plan, "EXACT", 1_000)
    monkeypatch.setattr(plan, "MORE", 50)
    scored: list[int] = []
    values = Scorer.values

    def counted(scorer: Scorer, index: MemoryIndex, users: np.ndarray, *rest: object) -> np.ndarray:
        scored.append(len(users))
        return values(scorer, index, users, *rest)  # type: ignore[arg-type]

    index, asked = many_users(20_000), []
    nearest = index.nearest
    monkeypatch.setattr(index, "nearest", lambda vector, k: asked.append(k) or nearest(vector, k))
    monkeypatch.setattr(population, "SAMPLE", 500)
    monkeypatch.setattr(Scorer, "values", counted)
    found = target(index, write(tmp_path / "n.toml", INDEXED), tmp_path / "near")
    assert [campaign["size"] for campaign in found["campaigns"]] == [300, 300, 400]
    assert max(asked) < 3_000
    assert set(scored) == {500}  # the sample, and no block of users
    assert found["gap"] < 1e-6


def test_what_is_missed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "BLOCK", 1_000)
    index = forgetful(20_000)
    exact = target(index, write(tmp_path / "c.toml", MANY), tmp_path / "exact")
    found = target(index, write(tmp_path / "n.toml", INDEXED), tmp_path / "near")
    first = [user for campaign, user, _ in audience(tmp_path / "exact") if campaign == "b"]
    missed = np.mean([int(user[1:]) % 5 == 0 for user in first])
    told = {campaign["id"]: campaign["index_recall"]["value"] for campaign in found["campaigns"]}
    assert 0.1 < missed < 0.3
    assert told["b"] == pytest.approx(1 - missed, abs=0.02)  # "a" may have taken some of them
    assert not any(int(user[1:]) % 5 == 0 for _, user, _ in audience(tmp_path / "near"))
    assert [c["size"] for c in found["campaigns"]] == [c["size"] for c in exact["campaigns"]]


def test_shards_do_not_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "BLOCK", 1_000)
    campaigns = write(tmp_path / "n.toml", INDEXED)
    target(forgetful(20_000), campaigns, tmp_path / "one")
    target(forgetful(20_000), campaigns, tmp_path / "many", scoring=in_shards(7))
    assert checksums(tmp_path / "one") == checksums(tmp_path / "many")


def test_other_scores_cannot_be_searched_for(tmp_path: Path) -> None:
    text = INDEXED.replace("min_audience = 1", 'min_audience = 1\nscores = "probability"', 1)
    with pytest.raises(ConfigError, match="finds users by log-probability"):
        target(MemoryIndex(), write(tmp_path / "n.toml", text), tmp_path / "out")


def test_a_real_index_is_asked(world: Path, tmp_path: Path) -> None:
    text = '[run]\nmin_audience = 1\nscoring = "index"\n[[campaign]]\nid = "a"\nitems = ["i3"]\nsize = 5\n'
    near = duality.target(
        world / "indexes/default", campaigns=write(tmp_path / "n.toml", text), out=tmp_path / "n"
    )
    plain = write(tmp_path / "c.toml", text.replace('scoring = "index"\n', ""))
    duality.target(world / "indexes/default", campaigns=plain, out=tmp_path / "e")
    assert audience(tmp_path / "n") == audience(tmp_path / "e")
    assert near["campaigns"][0]["index_recall"]["value"] == 1.0
