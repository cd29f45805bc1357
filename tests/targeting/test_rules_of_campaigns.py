"""Rules, caps, lists and shares of a campaign: each against users picked by hand, and no rule ever broken."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_targeting_run import MemoryIndex, write

from duality.errors import ConfigError, DataError, GateError
from duality.targeting.audience import held_out
from duality.targeting.outcome import check_quotas
from duality.targeting.run import target
from duality.targeting.spec import Holdout, read_campaigns

RUN = "[run]\nmin_audience = 1\n"
ONE = '[[campaign]]\nid = "x"\nitems = ["a"]\n'
DAY = 86_400_000_000


def run(tmp_path: Path, text: str, index: MemoryIndex | None = None) -> tuple[dict, dict]:
    """A run's document and its audience, as columns."""
    document = target(index or MemoryIndex(), write(tmp_path / "c.toml", text), tmp_path / "out")
    return document, pq.read_table(tmp_path / "out" / "audience.parquet").to_pydict()


def best(index: MemoryIndex, users: list[int], count: int, item: int = 0) -> list[str]:
    scores = index.users.vectors @ index.items.vectors[item]
    return [f"u{row}" for row in sorted(users, key=lambda row: -scores[row])[:count]]


def reasons(tmp_path: Path) -> dict[str, str]:
    table = pq.read_table(tmp_path / "out" / "excluded.parquet").to_pydict()
    return dict(zip(table["user"], table["reason"], strict=True))


def test_include_and_exclude_leave_who_they_say(tmp_path: Path) -> None:
    text = RUN + ONE + 'size = 4\ninclude = "country = \'DE\'"\nexclude = "age > 30"\n'
    _, audience = run(tmp_path, text)
    germans = [row for row in range(30) if row % 2]
    assert audience["user"] == best(MemoryIndex(), [row for row in germans if row <= 20], 4)
    assert set(audience["reason"]) == {"for item a"}
    why = reasons(tmp_path)
    assert {why[f"u{row}"] for row in germans if row > 20} == {"excluded by the rule"}
    assert {why[f"u{row}"] for row in range(0, 20, 2)} == {"not included by the rule"}
    assert why["u28"] == "excluded by the rule"  # the first reason that holds


def test_a_rule_may_choose_the_items_and_a_vector_may_stand_for_them(tmp_path: Path) -> None:
    index = MemoryIndex()
    text = RUN + "[[campaign]]\nid = \"x\"\nitems_where = \"title in ('a', 'b,c')\"\nsize = 5\n"
    _, audience = run(tmp_path, text)
    scores = index.users.vectors @ index.items.vectors.mean(axis=0)
    assert audience["user"] == [f"u{row}" for row in np.argsort(-scores)[:5]]
    nearest = (index.users.vectors[[int(u[1:]) for u in audience["user"]]] @ index.items.vectors.T).argmax(1)
    assert audience["reason"] == [f"most for item {('a', 'b,c')[place]}" for place in nearest]
    _, audience = run(tmp_path, RUN + '[[campaign]]\nid = "x"\nvector = [1.0, 0.5]\nsize = 5\n')
    centred = index.users.vectors - index.users.vectors.mean(axis=0)
    scores = centred[:, 0] + 0.5 * centred[:, 1]
    assert audience["user"] == [f"u{row}" for row in np.argsort(-scores)[:5]]
    for target_of, what in (
        ("items_where = \"title = 'z'\"", "items_where: no item matches"),
        ('items_where = "colour = 1"', "items_where: filter, position 1"),
        ("vector = [1.0, 0.5, 1.0, 1.0, 1.0]", "vector has 5 values, and users have 4"),
    ):
        with pytest.raises(ConfigError, match=f"campaign 'x': {what}"):
            run(tmp_path, f'{RUN}[[campaign]]\nid = "x"\n{target_of}\nsize = 5\n')


def test_lists_consent_and_erasure(tmp_path: Path) -> None:
    write(tmp_path / "optout.csv", "user\nu1\nu3\nstranger\n")
    pq.write_table(pa.table({"user_id": ["u5"]}), tmp_path / "customers.parquet")
    index = MemoryIndex()
    for row, attributes in enumerate(index.users.attributes):
        attributes["consent"] = row != 7
    from test_targeting_run import KINDS

    text = (
        '[run]\nmin_audience = 1\nsuppress = ["optout.csv"]\nconsent_column = "consent"\n'
        f'{ONE}size = 30\nsuppress = ["customers.parquet"]\nquota_min = 1\n'
    )
    KINDS["consent"] = "boolean"
    try:
        document, audience = run(tmp_path, text, index)
    finally:
        del KINDS["consent"]
    assert set(audience["user"]) == {f"u{row}" for row in range(30)} - {"u1", "u3", "u5", "u7"}
    assert reasons(tmp_path) == {
        "u1": "suppressed",
        "u3": "suppressed",
        "u5": "suppressed",
        "u7": "no consent",
    }
    assert document["campaigns"][0]["funnel"] == [
        {"step": "users", "left": 30},
        {"step": "no consent", "left": 29},
        {"step": "suppressed", "left": 26},
    ]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {"optout.csv_sha256", "customers.parquet_sha256"} <= manifest.keys()


def test_files_that_cannot_be_lists_are_refused(tmp_path: Path) -> None:
    for content, what in (
        ("a,b\n1,2\n", "optout.csv: no column of users: call it `user` .there is a, b."),
        ("user,b\nu1,1\n,2\n", "optout.csv, row 2, column 'user': an empty cell"),
    ):
        write(tmp_path / "optout.csv", content)
        with pytest.raises(DataError, match=what):
            run(tmp_path, RUN + ONE + 'size = 3\nsuppress = ["optout.csv"]\n')
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        run(tmp_path, RUN + ONE + 'size = 3\nsuppress = ["none.csv"]\n')


def contacts(tmp_path: Path, rows: list[tuple[str, str, float]]) -> None:
    user, campaign, ago = zip(*rows, strict=True)
    time = [MemoryIndex.moment - round(days * DAY) for days in ago]
    table = pa.table({"user": user, "campaign": campaign, "time": pa.array(time, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "contacts.parquet")


def test_frequency_caps_honour_the_past(tmp_path: Path) -> None:
    contacts(tmp_path, [("u1", "x", 1), ("u1", "y", 2), ("u2", "x", 1), ("u3", "x", 9), ("u4", "y", 1)])
    run_of = '[run]\nmin_audience = 1\ncap = 3\ncontacts = "contacts.parquet"\n'
    own = 'size = 30\nquota_min = 1\nfrequency_cap = {n = 1, days = 7, scope = "campaign"}\n'
    run(tmp_path, run_of + ONE + own)
    assert reasons(tmp_path) == {"u1": "contacted too often", "u2": "contacted too often"}
    # A window that begins two days ago looks back from there.
    start = str(np.datetime64(MemoryIndex.moment - 36 * 3_600_000_000, "us"))
    later = own + f"window = {{start = {start[:19]}}}\n"
    run(tmp_path, run_of + ONE + later.replace("days = 7", "days = 10"))
    assert reasons(tmp_path) == {"u3": "contacted too often"}


def test_a_cap_shared_by_all_leaves_what_the_past_left(tmp_path: Path) -> None:
    contacts(tmp_path, [("u1", "old", 1), ("u1", "old", 2), ("u2", "old", 1)])
    text = (
        '[run]\nmin_audience = 1\ncap = 3\ncontacts = "contacts.parquet"\nfrequency_cap = {n = 2, days = 7}\n'
        + "".join(f'[[campaign]]\nid = "{name}"\nitems = ["a"]\nsize = 30\nquota_min = 1\n' for name in "xyz")
    )
    _, audience = run(tmp_path, text)
    counts = {user: audience["user"].count(user) for user in (f"u{row}" for row in range(30))}
    assert counts.pop("u1") == 0
    assert counts.pop("u2") == 1
    assert set(counts.values()) == {2}


def test_a_cap_of_one_campaign_does_not_bind_those_whom_it_cannot_have(tmp_path: Path) -> None:
    contacts(tmp_path, [("u1", "old", 1)])
    text = '[run]\nmin_audience = 1\ncap = 2\ncontacts = "contacts.parquet"\n' + "".join(
        f'[[campaign]]\nid = "{name}"\nitems = ["a"]\nsize = 30\nquota_min = 1\n{cap}'
        for name, cap in (("x", "frequency_cap = {n = 1, days = 7}\n"), ("y", ""))
    )
    _, audience = run(tmp_path, text)
    pairs = list(zip(audience["user"], audience["campaign"], strict=True))
    assert [campaign for user, campaign in pairs if user == "u1"] == ["y"]
    assert len(pairs) == 30  # the others may be in one of the two


@pytest.mark.parametrize(
    ("asked", "found"),
    [("size = 7", 7), ("ratio = 0.5", 15), ("budget = 10.0\ncost = 1.5", 6), ("quota_max = 9", 9)],
)
def test_how_many(tmp_path: Path, asked: str, found: int) -> None:
    document, audience = run(tmp_path, RUN + ONE + asked + "\n")
    assert document["campaigns"][0]["size"] == document["campaigns"][0]["asked"] == found
    assert audience["user"] == best(MemoryIndex(), list(range(30)), found)


def test_a_quota_decides_what_is_too_few(tmp_path: Path) -> None:
    wide = RUN + ONE + "size = 40\n"
    document, _ = run(tmp_path, wide + "quota_min = 30\n")
    check_quotas(document)
    document, _ = run(tmp_path, wide + "quota_min = 31\n")
    with pytest.raises(Exception, match="'x' 30 of 31"):
        check_quotas(document)


def test_expansion_fills_with_the_best_of_the_others(tmp_path: Path) -> None:
    index = MemoryIndex()
    text = RUN + ONE + 'size = 6\ninclude = "age < 14"\nexclude = "age = 20"\nexpansion = true\n'
    document, audience = run(tmp_path, text)
    inside, outside = [0, 1, 2, 3], [row for row in range(4, 30) if row != 10]
    assert set(audience["user"]) == {f"u{row}" for row in inside} | set(best(index, outside, 2))
    beyond = [user for user, why in zip(audience["user"], audience["reason"]) if "beyond the include" in why]
    assert set(beyond) == set(best(index, outside, 2))
    assert document["campaigns"][0]["expanded"] == 2


def test_lift_is_relative_to_the_average_user(tmp_path: Path) -> None:
    index = MemoryIndex()
    likely = np.exp(index.users.vectors @ index.items.vectors[0])
    _, audience = run(tmp_path, RUN + ONE + "quota_max = 30\nmin_lift = 1.5\n")
    assert set(audience["user"]) == {f"u{row}" for row in np.flatnonzero(likely / likely.mean() >= 1.5)}
    assert "below min_lift" in reasons(tmp_path).values()
    curve = json.loads((tmp_path / "out" / "reach.json").read_text())["campaigns"][0]["curve"]
    chosen = np.sort(likely)[::-1][: len(audience["user"])]
    assert curve[-1]["lift"] == pytest.approx(chosen.mean() / likely.mean(), rel=1e-5)
    assert curve[0]["lift"] == pytest.approx(chosen[0] / likely.mean(), rel=1e-5)


def test_arms_are_drawn_by_user_and_salt(tmp_path: Path) -> None:
    text = RUN + ONE + 'size = 30\nholdout = {fraction = 0.4, salt = "s"}\n'
    document, audience = run(tmp_path, text)
    again = dict(
        zip(*(run(tmp_path, text.replace("size = 30", "size = 12"))[1][key] for key in ("user", "arm")))
    )
    arms = dict(zip(audience["user"], audience["arm"]))
    assert {user: arms[user] for user in again} == again
    assert document["campaigns"][0]["holdout"] == list(arms.values()).count("holdout") > 0
    holdout = Holdout(fraction=0.3, salt="t")
    many = [held_out(holdout, "x", f"user {number}") for number in range(20_000)]
    assert abs(np.mean(many) - 0.3) < 0.015
    other = [held_out(Holdout(fraction=0.3), "x", f"user {number}") for number in range(20_000)]
    assert abs(np.mean(np.array(many) & np.array(other)) - 0.09) < 0.01


def test_overlaps_and_labels_are_rounded(tmp_path: Path) -> None:
    text = RUN.replace("1\n", "1\ncap = 2\n") + "".join(
        f'[[campaign]]\nid = "{name}"\nitems = ["a"]\nsize = {size}\n'
        for name, size in (("x", 20), ("y", 14))
    )
    run(tmp_path, text)
    with open(tmp_path / "out" / "overlap.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "first": "x",
        "second": "y",
        "wanted_by_both": "10",
        "jaccard": "0.7",
        "given_to_both": "10",
    }
    reach = json.loads((tmp_path / "out" / "reach.json").read_text())
    assert [campaign["found"] for campaign in reach["campaigns"]] == [20, 10]
    label = json.loads((tmp_path / "out" / "datalabel.json").read_text())
    assert label["users"] == 30
    assert set(label["method"]) == {"x", "y"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ONE, "how many. give size, ratio"),
        (ONE + "size = 3\nratio = 0.1\n", "size and ratio contradict each other"),
        (ONE + "budget = 3.0\n", "a budget needs a cost"),
        (ONE + "size = 5\ncost = 3.0\n", "a cost a budget"),
        (ONE + "size = 5\nquota_min = 6\n", "quota_min 6 is more than it asks for .5."),
        (ONE + "size = 5\nquota_min = 4\nquota_max = 3\n", "quota_min 4 is more than quota_max 3"),
        (ONE + "size = 5\nexpansion = true\n", "expansion goes beyond an include rule"),
        (ONE + 'size = 5\ninclude = "a = 1"\nwhere = "a = 1"\n', "include and where are the same"),
        (ONE + 'size = 5\nfrequency_cap = {n = 1, days = 1.0, scope = "campaign"}\n', "counts past contacts"),
        (ONE + "size = 5\nfrequency_cap = {n = 0, days = 1.0}\n", "frequency_cap.n"),
        (ONE + "size = 5\nwindow = {start = 2024-05-02, end = 2024-05-01}\n", "ends before it starts"),
        (ONE + "size = 5\nholdout = {fraction = 1.5}\n", "holdout.fraction"),
        (ONE + 'size = 5\nobjective = "probability"\n', "values could not be added"),
        ('[[campaign]]\nid = "x"\nseed_users = ["u1"]\nsize = 3\nmin_lift = 2.0\n', "likeness has none"),
        (
            '[run]\nsensitive_columns = ["age"]\n' + ONE + 'size = 5\nexclude = "age > 3"\n',
            "'age' is a sensitive column",
        ),
        ('[run]\nconsent_column = "a = 1 or b"\n' + ONE + "size = 5\n", "is not a column's name"),
    ],
)
def test_contradictions_are_refused_before_anything_starts(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_campaigns(write(tmp_path / "c.toml", text))


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_no_rule_is_ever_broken(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever is asked, suppressed and over-contacted users never appear, caps hold, and whoever a hash holds out is held
    out wherever the salt is the same."""
    tmp_path = tmp_path_factory.mktemp("any")
    users = [f"u{row}" for row in range(30)]
    optout = data.draw(st.sets(st.sampled_from(users), max_size=10))
    write(tmp_path / "optout.csv", "\n".join(["user", *sorted(optout)]) + "\n")
    past = data.draw(
        st.lists(st.tuples(st.sampled_from(users), st.just("old"), st.floats(0, 20)), min_size=1)
    )
    contacts(tmp_path, past)
    limit, cap = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    text = (
        f'[run]\nmin_audience = 1\ncap = {cap}\nsuppress = ["optout.csv"]\ncontacts = "contacts.parquet"\n'
        f"frequency_cap = {{n = {limit}, days = 7.0}}\n"
    )
    share = data.draw(st.floats(0.05, 0.95))
    for number in range(data.draw(st.integers(1, 4))):
        size = data.draw(st.integers(1, 30))
        text += f'[[campaign]]\nid = "c{number}"\nitems = ["{data.draw(st.sampled_from(["a", "b,c"]))}"]\nsize = {size}\n'
        text += f'holdout = {{fraction = {share}, salt = "spring"}}\n'
    try:
        _, audience = run(tmp_path, text)
    except GateError:  # an audience under the floor
        assert not (tmp_path / "out").exists()
        return
    recent = [user for user, _, ago in past if round(ago * DAY) < 7 * DAY]
    for user in set(audience["user"]):
        assert user not in optout
        assert audience["user"].count(user) <= min(cap, limit - recent.count(user))
    pairs = list(zip(audience["campaign"], audience["user"], strict=True))
    assert len(set(pairs)) == len(pairs)
    kept_out = {user for user in users if held_out(Holdout(fraction=share, salt="spring"), "any", user)}
    for user, arm in zip(audience["user"], audience["arm"], strict=True):
        assert (arm == "holdout") == (user in kept_out)
