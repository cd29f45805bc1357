"""Codes of attributes against what is read off the table by hand."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pyarrow as pa
import pytest

from duality.data.coding import BUCKETS, Coded, Vocabulary
from duality.errors import InputError

TABLE = pa.table(
    {
        "id": ["a", "b", "c", "d", "e"],
        "country": ["DE", "FR", "DE", None, "PT"],
        "genres": [["x", "y"], ["x"], [], None, ["y", "z", "x"]],
        "adult": [True, False, True, True, None],
        "age": [20.0, 30.0, 40.0, None, 1000.0],
        "since": [datetime.date(2020, 1, day) for day in range(1, 6)],
        "alone": ["p", "q", "r", "s", "t"],
    }
)
TRAINED = np.array([True, True, True, True, False])


def values(vocabulary: Vocabulary, table: pa.Table, row: int) -> dict[int, float]:
    coded = vocabulary.codes(table)
    mine = slice(coded.indptr[row], coded.indptr[row + 1])
    return dict(zip(coded.code[mine].tolist(), coded.weight[mine].tolist(), strict=True))


def fit(*names: str) -> Vocabulary:
    return Vocabulary.fit(TABLE, names, TRAINED, side="items")


def test_categories_are_values_that_two_training_rows_share() -> None:
    known = fit("country", "genres", "adult")
    # country: DE; genres: x (y stands in one training row, z in none); adult: true
    assert [column.values for column in known.columns] == [("DE",), ("x",), ("true",)]
    assert known.size == 3
    assert values(known, TABLE, 0) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert values(known, TABLE, 1) == {1: 1.0}
    assert values(known, TABLE, 3) == {2: 1.0}
    assert values(known, TABLE, 4) == {1: 1.0}


def test_values_of_a_list_share_its_weight() -> None:
    everybody = Vocabulary.fit(TABLE, ["genres"], np.ones(5, bool), side="items")
    assert everybody.columns[0].values == ("x", "y")
    assert values(everybody, TABLE, 0) == {0: 0.5, 1: 0.5}
    assert values(everybody, TABLE, 4) == {0: 0.5, 1: 0.5}  # z stands in one row
    assert values(everybody, TABLE, 2) == {}


def test_numbers_and_dates_fall_into_buckets_of_training_rows() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.exponential(size=1000)
    table = pa.table({"id": [str(n) for n in range(1000)], "price": numbers})
    known = Vocabulary.fit(table, ["price"], np.ones(1000, bool), side="items")
    coded = known.codes(table)
    assert known.size == BUCKETS
    assert np.bincount(coded.code, minlength=BUCKETS).min() >= 1000 // BUCKETS - 1
    order = np.argsort(numbers)
    assert (np.diff(coded.code[order]) >= 0).all()
    ages = fit("age", "since")
    assert values(ages, TABLE, 3).keys() == {ages.size - 1}  # no age; the last date of training
    old, older = values(ages, TABLE, 2), values(ages, TABLE, 4)
    assert max(c for c in older if c < ages.columns[0].size) >= max(
        c for c in old if c < ages.columns[0].size
    )


def test_the_id_is_a_value_of_its_own_and_unknown_ids_have_none() -> None:
    class Known:
        def find(self, ids: list[str]) -> np.ndarray:
            return np.array([{"b": 1, "d": 3}.get(name, -1) for name in ids])

    known = fit("id")
    assert known.size == len(TABLE)
    assert [values(known, TABLE, row) for row in range(2)] == [{0: 1.0}, {1: 1.0}]
    moved = TABLE.take([3, 4, 1])
    coded = known.codes(moved, Known())  # type: ignore[arg-type]
    assert coded.indptr.tolist() == [0, 1, 1, 2]
    assert coded.code.tolist() == [3, 1]


def test_a_vocabulary_survives_json_and_columns_may_be_missing_later() -> None:
    known = fit("country", "age", "id")
    again = Vocabulary.from_json(json.loads(json.dumps(known.to_json())))
    assert again == known
    same(again.codes(TABLE), known.codes(TABLE))
    bare = known.codes(TABLE.select(["id"]))
    assert bare.size == known.size
    assert bare.code.min() >= known.columns[0].size + known.columns[1].size


def test_a_matrix_has_one_code_a_column() -> None:
    known = fit("country", "genres", "adult")
    found = known.matrix(TABLE.drop_columns(["adult"]))
    assert found.dtype == np.int32
    assert found.tolist() == [[0, 1, -1], [-1, 1, -1], [0, -1, -1], [-1, -1, -1], [-1, 1, -1]]


def test_a_colon_says_whether_numbers_are_categories() -> None:
    authors = pa.table({"id": [str(n) for n in range(100)], "author": [1000 + n // 2 for n in range(100)]})
    everybody = np.ones(100, bool)
    guessed, said = (
        Vocabulary.fit(authors, [name], everybody, side="items") for name in ("author", "author:category")
    )
    assert guessed.words() == f"author ({BUCKETS} buckets)"
    assert said.words() == "author (50 values)"
    assert said.codes(authors).code[:4].tolist() == [0, 0, 1, 1]
    few = pa.table({"id": ["a", "b", "c"], "stars": [1, 2, 2]})
    stars = Vocabulary.fit(few, ["stars:number"], np.ones(3, bool), side="items")
    assert stars.columns[0].values == ()
    assert stars.codes(few).code[0] < stars.codes(few).code[1]


def same(one: Coded, other: Coded) -> None:
    for name in ("indptr", "code", "weight"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("colour", "items have no attribute 'colour': there is id, country"),
        ("alone", "no value stands in 2"),
        ("age:old", "'old' is neither category, number, text nor vector"),
        ("country:number", "attribute 'country' of items is not a number"),
    ],
)
def test_what_cannot_be_learned_is_refused(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(name)
