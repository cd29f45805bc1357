"""Ids and rows, both ways, against a plain dictionary."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duality.data.ids import Ids, write_ids
from duality.errors import DamageError, InputError, UnknownIdError

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def stored(identifiers: list[str], folder: Path, side: str = "users") -> Ids:
    write_ids(folder, side, identifiers)
    return Ids.open(folder, side)


@settings(max_examples=40, deadline=None)
@given(identifiers=st.lists(texts, min_size=1, max_size=60, unique=True), asked=st.lists(texts, max_size=5))
def test_lookups_agree_with_a_dictionary(identifiers: list[str], asked: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ids = stored(identifiers, Path(folder))
        known = {identifier: row for row, identifier in enumerate(identifiers)}
        assert len(ids) == len(identifiers)
        assert ids.ids(np.arange(len(ids))) == identifiers
        assert [ids.row(identifier) for identifier in identifiers] == list(range(len(ids)))
        assert ids.find(asked + identifiers).tolist() == [known.get(text, -1) for text in asked + identifiers]
        for text in asked:
            assert ids.find([text] * 1).tolist() == [known.get(text, -1)]


def test_few_lookups_do_not_build_the_dictionary(tmp_path: Path) -> None:
    ids = stored([str(number) for number in range(1000)], tmp_path)
    assert ids.find(["999", "x", "0"]).tolist() == [999, -1, 0]
    assert "_dictionary" not in vars(ids)
    assert ids.rows([str(number) for number in range(500)]).tolist() == list(range(500))
    assert "_dictionary" in vars(ids)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("6041", "6040"), ("420", "421"), ("4z", "42"), ("the matrx", "the matrix"), ("zzzz", "the matrix")],
)
def test_unknown_ids_suggest_near_ones(tmp_path: Path, asked: str, meant: str) -> None:
    ids = stored(["1", "42", "421", "6040", "the matrix"], tmp_path)
    with pytest.raises(UnknownIdError, match=rf"no user '{asked}' \(did you mean .*{meant}"):
        ids.row(asked)
    with pytest.raises(UnknownIdError, match=asked):
        ids.rows(["1", asked])


def test_rows_outside_are_refused(tmp_path: Path) -> None:
    ids = stored(["a", "b"], tmp_path)
    for row in (-1, 2):
        with pytest.raises(IndexError):
            ids.id(row)
        with pytest.raises(IndexError):
            ids.ids([0, row])
    assert ids.ids([]) == []


def test_an_id_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'a' appears twice"):
        write_ids(tmp_path, "items", ["a", "b", "a"])


def test_files_that_do_not_fit_are_damage(tmp_path: Path) -> None:
    stored(["a", "b"], tmp_path)
    (tmp_path / "users.ids.bin").write_bytes(b"abc")
    with pytest.raises(DamageError, match="does not fit its offsets"):
        Ids.open(tmp_path, "users")
    (tmp_path / "users.ids.order.npy").unlink()
    with pytest.raises(DamageError, match="cannot read the ids"):
        Ids.open(tmp_path, "users")
