"""Texts and vectors of rows, against what is put together by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from duality.data.coding import Vocabulary
from duality.data.describing import Described, embedded, texts_of, vectors_of
from duality.errors import InputError

TABLE = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "title": ["Heat", None, "Alien", "Heat"],
        "genres": [["Crime", "Drama"], ["Comedy"], [], None],
        "picture": [[1.0, 0.0], None, [0.5, 2.0], [0.0, 1.0]],
    }
)
TRAINED = np.ones(4, bool)


def lengths(texts: list[str]) -> np.ndarray:
    """A text model of two numbers."""
    return np.array([[len(text), text.count("e")] for text in texts], np.float32)


def test_a_text_names_its_columns_and_leaves_out_what_is_not_there() -> None:
    assert texts_of(TABLE, ["title", "genres", "unknown"]) == [
        "title: Heat. genres: Crime, Drama",
        "genres: Comedy",
        "title: Alien",
        "title: Heat",
    ]
    assert texts_of(TABLE.select(["id"]), ["title"]) == ["", "", "", ""]


def test_every_text_is_read_once_and_none_again() -> None:
    asked: list[list[str]] = []

    def read(texts: list[str]) -> np.ndarray:
        asked.append(texts)
        return lengths(texts)

    texts = ["one", "three", "", "one"]
    vectors, keys = embedded(texts, read, None)
    np.testing.assert_array_equal(vectors, [[3, 1], [5, 2], [0, 0], [3, 1]])
    assert sorted(asked[0]) == ["one", "three"]
    assert keys[0] == keys[3] != keys[1]
    assert keys[2] == 0
    known = Described(vectors, (2,), keys)
    again, more = embedded(["three", "seven e", "one", ""], read, known)
    np.testing.assert_array_equal(again, [[5, 2], [7, 3], [3, 1], [0, 0]])
    assert asked[1:] == [["seven e"]]
    assert more[0] == keys[1]


def test_vectors_are_lists_of_numbers_of_one_length() -> None:
    found = vectors_of(TABLE.column("picture"), "picture", "items")
    np.testing.assert_array_equal(found, [[1, 0], [0, 0], [0.5, 2], [0, 1]])
    for values, what in (
        ([[1.0], [1.0, 2.0]], "row 1 has 2 numbers and not 1"),
        ([None, None], "no column of lists"),
        (["text", "more"], "no column of lists"),
        ([[1.0], [float("nan")]], "row 1 has a number that is not finite"),
    ):
        with pytest.raises(InputError, match=what):
            vectors_of(pa.chunked_array([pa.array(values)]), "picture", "items")


def test_a_vocabulary_describes_rows_part_by_part() -> None:
    names = ["picture:vector", "title:text", "genres:text", "genres"]
    known = Vocabulary.fit(TABLE, names[:3], TRAINED, side="items", text_model="abc")
    assert known.size == 0
    assert known.text_model == "abc"
    assert known.words() == "picture (vector), title (text), genres (text)"
    coded = Vocabulary.from_json(known.to_json()).codes(TABLE, embed=lengths)
    assert coded.described is not None
    assert coded.described.widths == (2, 2)
    np.testing.assert_array_equal(coded.described.vectors[1], [14, 3, 0, 0])
    np.testing.assert_array_equal(coded.described.vectors[2, 2:], [0.5, 2])
    bare = known.codes(TABLE.select(["id"]), embed=lengths, known=coded.described)
    assert bare.described is not None
    assert not bare.described.vectors.any()


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match=r"needs a text model: set model\.text_model"):
        Vocabulary.fit(TABLE, ["title:text"], TRAINED, side="items")
    with pytest.raises(InputError, match="none of the rows that train has a text"):
        Vocabulary.fit(TABLE, ["title:text"], np.arange(4) == 1, side="items", text_model="abc")
    with pytest.raises(InputError, match="neither category, number, text nor vector"):
        Vocabulary.fit(TABLE, ["title:words"], TRAINED, side="items")
