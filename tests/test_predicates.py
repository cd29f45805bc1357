"""Filters: the SQL of both dialects agrees with the Python reference; bad input names its position."""

from __future__ import annotations

import json
import sqlite3
from datetime import date, datetime

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duality.errors import FilterError
from duality.predicates import canonical_date, columns_of, evaluate, parse, to_sql
from duality.predicates_syntax import MAX_DEPTH, MAX_TERMS

KINDS = {
    "id": "string",
    "age": "number",
    "vip": "boolean",
    "since": "date",
    "genres": "list",
    "odd name": "string",
}
ROWS = [
    {"id": "1", "age": 17, "vip": True, "since": date(2020, 1, 1), "genres": ["Comedy"], "odd name": "it's"},
    {"id": "2", "age": 18.5, "vip": False, "since": datetime(2020, 1, 1, 12), "genres": [], "odd name": ""},
    {"id": "3", "age": None, "vip": None, "since": None, "genres": None, "odd name": None},
    {
        "id": "ü",
        "age": -3,
        "vip": True,
        "since": date(2024, 5, 1),
        "genres": ["Comedy", "ü", None],
        "odd name": "DE",
    },
    {
        "id": "10",
        "age": 2**53,
        "vip": None,
        "since": date(1999, 1, 1),
        "genres": [7, 2.5],
        "odd name": "a%_b",
    },
]


def matching(expression: str) -> set[str]:
    tree = parse(expression)
    return {row["id"] for row in ROWS if evaluate(tree, row)}


def in_sqlite(expression: str) -> set[str]:
    condition, parameters = to_sql(parse(expression), KINDS)
    connection = sqlite3.connect(":memory:")
    connection.execute('CREATE TABLE t (id TEXT, age, vip, since TEXT, genres TEXT, "odd name" TEXT)')
    for row in ROWS:
        since = canonical_date(row["since"]) if row["since"] else None
        genres = None if row["genres"] is None else json.dumps(row["genres"], ensure_ascii=False)
        values = (row["id"], row["age"], row["vip"], since, genres, row["odd name"])
        connection.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", values)
    found = {row[0] for row in connection.execute(f"SELECT id FROM t WHERE {condition}", parameters)}
    connection.close()
    return found


def in_duckdb(expression: str) -> set[str]:
    condition, parameters = to_sql(parse(expression), KINDS, "duckdb")
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE t (id VARCHAR, age DOUBLE, vip BOOLEAN, since TIMESTAMP,"
        ' genres VARCHAR[], "odd name" VARCHAR)'
    )
    for row in ROWS:
        genres = None if row["genres"] is None else [None if g is None else str(g) for g in row["genres"]]
        values = [row["id"], row["age"], row["vip"], row["since"], genres, row["odd name"]]
        connection.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", values)
    found = {
        row[0] for row in connection.execute(f"SELECT id FROM t WHERE {condition}", parameters).fetchall()
    }
    connection.close()
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("age >= 18", {"2", "10"}),
        ("not (age >= 18)", {"1", "ü"}),
        ("age is null or age < -2.5e0", {"3", "ü"}),
        ("age = 1 OR age=17", {"1"}),
        ("genres contains 'Comedy' and vip = true", {"1", "ü"}),
        ("not genres contains 'Comedy'", {"2", "10"}),
        ("genres not contains 'Comedy'", {"2", "10"}),
        ("since > '2020-01-01' and since < '2024-05-01T00:00:01+00:00'", {"2", "ü"}),
        ("since >= '2020-01-01T13:00:00+01:00'", {"2", "ü"}),
        ("\"odd name\" = 'it''s' or \"odd name\" contains '%'", {"1", "10"}),
        ("\"odd name\" contains ''", {"1", "2", "ü", "10"}),
        ("id in ('1', 'ü') AND NOT id = '1'", {"ü"}),
        ("id not in ('1', 'ü') and age is not null", {"2", "10"}),
        ("vip != true", {"2"}),
        ("age = 18.5 or age = 99999999999999999999999", {"2"}),
    ],
)
def test_known_answers(expression, expected):
    assert matching(expression) == in_sqlite(expression) == in_duckdb(expression) == expected


def literal(value):
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else "'" + value.replace("'", "''") + "'"


numbers = st.sampled_from([-3, 0, 17, 18, 18.5, 2**53])
texts = st.sampled_from(["1", "ü", "it's", "DE", "", "a"])
dates = st.sampled_from(["2020-01-01", "2020-01-01T12:00:00", "2024-05-01"])
signs = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
terms = st.one_of(
    st.builds(lambda s, v: f"age {s} {literal(v)}", signs, numbers),
    st.builds(lambda s, v: f"since {s} {literal(v)}", signs, dates),
    st.builds(lambda s, v: f'"odd name" {s} {literal(v)}', st.one_of(signs, st.just("contains")), texts),
    st.builds(lambda s, v: f"vip {s} {literal(v)}", st.sampled_from(["=", "!="]), st.booleans()),
    st.builds(lambda v: f"genres contains {literal(v)}", st.one_of(texts, st.just("Comedy"))),
    st.builds(lambda v: f"id in ({', '.join(map(literal, v))})", st.lists(texts, min_size=1, max_size=3)),
    st.builds(
        lambda c, n: f"{c} is {n}null",
        st.sampled_from(["age", "vip", "genres"]),
        st.sampled_from(["", "not "]),
    ),
)
expressions = st.recursive(
    terms,
    lambda inner: st.one_of(
        st.builds("not ({})".format, inner),
        st.builds("({}) and {}".format, inner, inner),
        st.builds("({}) or not {}".format, inner, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(expressions)
def test_sqlite_agrees_with_python(expression):
    assert in_sqlite(expression) == matching(expression)


@settings(max_examples=40, deadline=None)
@given(expressions)
def test_duckdb_agrees_with_python(expression):
    assert in_duckdb(expression) == matching(expression)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused_with_a_position(text):
    try:
        outcome = columns_of(parse(text))
    except FilterError as error:
        outcome = error.position
    assert isinstance(outcome, set) or 0 <= outcome <= len(text)


@pytest.mark.parametrize(
    ("expression", "position", "words"),
    [
        ("", 0, "expected a column"),
        ("agee >= 18", 0, "did you mean age"),
        ("vip = true and agee >= 18", 15, "unknown column agee"),
        ("age = 'x'", 6, "number"),
        ("age = true", 6, "number"),
        ("id = 3", 5, "single quotes"),
        ("vip > true", 0, "does not fit"),
        ("age contains 3", 0, "does not fit"),
        ("genres = 'Comedy'", 0, "does not fit"),
        ("since > 'yesterday'", 8, "date"),
        ("age = null", 6, "is null"),
        ("age == 3", 5, "expected a value"),
        ("age >=", 6, "expected a value"),
        ("age = 1 age = 2", 8, "expected `and`"),
        ("(age = 1", 8, "expected )"),
        ("id = 'abc", 5, "not closed"),
        ("age = 1; drop table t", 7, "unexpected ';'"),
        ("age = 1e999", 6, "too large"),
        ("id in ()", 7, "expected a value"),
        ("age = 12abc", 6, "unexpected '1'"),
        ("id = 'a\ud800'", 5, "surrogate"),
    ],
)
def test_refusals_name_the_position(expression, position, words):
    with pytest.raises(FilterError, match=words.replace(")", r"\)")) as caught:
        to_sql(parse(expression), KINDS)
    assert caught.value.position == position


def test_hostile_sizes_are_refused_not_a_crash():
    for expression in (
        "(" * 100_000,
        "not " * 50_000 + "age = 1",
        " or ".join(["age = 1"] * (MAX_TERMS + 1)),
    ):
        with pytest.raises(FilterError) as caught:
            parse(expression)
        assert len(str(caught.value)) < 500


def test_the_largest_allowed_filters_run_in_sqlite():
    deep = "(age = 1 or age = 17 and " * (MAX_DEPTH - 2) + "not age = 18" + ")" * (MAX_DEPTH - 2)
    wide = " and ".join(["age = 17 or age = 18"] * (MAX_TERMS // 2))
    many = "id in (" + ", ".join(f"'{n}'" for n in range(9_999)) + ")"
    assert [in_sqlite(text) for text in (deep, wide, many)] == [matching(text) for text in (deep, wide, many)]


def test_hostile_names_stay_names():
    condition, parameters = to_sql(parse('"x"" OR 1=1 --" = \'v\''), {'x" OR 1=1 --': "string"})
    assert condition == '("x"" OR 1=1 --" = ?)'
    assert parameters == ["v"]
