"""Filters mean the same in every place an index can live: what `predicates.evaluate` says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_worlds import Backend, rows_of_facts, vectors_like_a_model

from duality.errors import FilterError
from duality.predicates import evaluate, parse

FILTERS = [
    "title = 'Film 0: ''0''%'",
    "title contains 'ü'",
    "not (title contains 'Film 3')",
    "title contains '%' and title contains ''''",
    "title contains ''",
    "title < 'Film 4' or title is null",
    "title not in ('Film 0: ''0''%', 'Film 1: ü''1''%')",
    "year >= 1990 and year != 2000",
    "not (year > 1990 and seen = true)",
    "year in (1961, 1962.0, 1.5e3, -4)",
    "year not in (1961, 1962)",
    "year is null or not (year is not null)",
    "score = -7.5 or score < -7.25",
    "score > 1e-3 and score <= 7",
    "seen != true",
    "seen in (true, false)",
    "day > '2020-06-01' and day <= '2021-01-01'",
    "day = '2020-01-01' or day != '2020-01-01T00:00:00Z'",
    "day not in ('2020-01-01')",
    "tags contains 't1'",
    "tags not contains 't1'",
    "tags contains 'a\"b'",
    "tags contains 1",
    "sizes contains 1",
    "not sizes contains 2.5",
    "id in ('i1', 'i2', 'nobody', 'i''3') or id = 'i5'",
    "id != 'i1' and not id in ('i2', 'i3') and id >= 'i4'",
    "id is null or id contains '9'",
    "year < 99999999999999999999 and year != 9007199254740993",
]


def expected_ids(where: str) -> list[str]:
    return sorted(row["id"] for row in rows_of_facts() if evaluate(parse(where), row))


@pytest.mark.parametrize("where", FILTERS)
def test_filters_mean_what_they_say(backend: Backend, catalogue: Path, where: str) -> None:
    with backend.open(catalogue) as pair:
        expected = expected_ids(where)
        assert pair.items.matching(where)[0] == expected
        ids, _ = pair.items.search(vectors_like_a_model(2, 3), 60, where)
        assert all(sorted(id for id in row if id is not None) == expected for row in ids)
        assert [record["id"] for record in pair.items.list(where, 3)] == expected[:3]


TEXTS = st.text(st.sampled_from("Film 03:ü'%_\\\"{}\n"), max_size=4).map(
    lambda t: "'" + t.replace("'", "''") + "'"
)
NUMBERS = st.one_of(
    st.integers(1955, 2025), st.floats(-9, 9, width=32), st.sampled_from([2**53 + 1, -0.0])
).map(repr)
LITERALS = {
    "title": TEXTS, "year": NUMBERS, "score": NUMBERS, "seen": st.sampled_from(["true", "false"]), "id": TEXTS,
    "day": st.sampled_from(["'2020-01-01'", "'2020-03-21T00:00:00+00:00'", "'2021-02-03T04:05:06'"]),
}  # fmt: skip


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    column = draw(st.sampled_from([*LITERALS, "tags"]))
    if draw(st.integers(0, 5)) == 0:
        return f"{column} is null"
    if column == "tags" or (column in ("title", "id") and draw(st.booleans())):
        return f"{column} {draw(st.sampled_from(['', 'not ']))}contains {draw(TEXTS)}"
    if draw(st.booleans()):
        return f"{column} in ({', '.join(draw(st.lists(LITERALS[column], min_size=1, max_size=3)))})"
    signs = ["=", "!="] + ([] if column == "seen" else ["<", "<=", ">", ">="])
    return f"{column} {draw(st.sampled_from(signs))} {draw(LITERALS[column])}"


EXPRESSIONS = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        inner.map(lambda term: f"not ({term})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def opened(backend: Backend, catalogue: Path) -> Iterator[Any]:
    with backend.open(catalogue) as pair:
        yield pair.items


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(where=EXPRESSIONS)
def test_any_filter_agrees_with_plain_python(opened: Any, where: str) -> None:
    assert opened.matching(where)[0] == expected_ids(where)


@pytest.mark.parametrize("where", ["yeer = 1", "year = 'x'", "year contains 3", "tags = 'x'", "year ="])
def test_filters_that_do_not_fit(backend: Backend, catalogue: Path, where: str) -> None:
    with backend.open(catalogue) as pair:
        for call in (pair.items.list, lambda w: pair.items.search(vectors_like_a_model(1), 1, w)):
            with pytest.raises(FilterError, match="filter, position"):
                call(where)
