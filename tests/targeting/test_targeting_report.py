"""The page of a run on a real index: what it says, what it may not say, and that it is the same twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_targeting_run import write

import duality
from duality.artifacts import checksum

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("vl_convert", reason="the extra `report` is not installed")

TEXT = """
[run]
min_audience = 5
cap = 2
[[campaign]]
id = "spring <b>"
items_where = "year >= 2010"
ratio = 0.3
holdout = {fraction = 0.5}
[[campaign]]
id = "like"
seed_users = ["u1", "u2"]
size = 20
"""


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    campaigns = write(out / "c.toml", TEXT)
    duality.target(world / "indexes/default", campaigns=campaigns, out=out / "out", report=True)
    return out


def test_the_page_shows_funnels_curves_and_overlaps(run: Path) -> None:
    page = (run / "out" / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "spring &lt;b&gt;" in page
    assert "<b>" not in page.split("<body>")[1]
    assert "Every campaign has the users it needs." in page
    assert "spring &lt;b&gt; and like" in page
    assert "1 of these campaigns hold some out" in page


def test_the_same_run_gives_the_same_page_and_vouches_for_it(run: Path, world: Path) -> None:
    again = run / "again"
    duality.target(world / "indexes/default", campaigns=run / "c.toml", out=again, report=True)
    assert (again / "report.html").read_bytes() == (run / "out" / "report.html").read_bytes()
    assert checksum(again / "report.html") in (again / "manifest.json").read_text()


def test_who_is_over_and_under_served_leaves_out_what_is_sensitive(run: Path) -> None:
    from duality.workflows.targeting_report import served

    attributes = {
        f"u{n}": {
            "country": "DE" if n % 4 else "FR",
            "faith": "a" if n % 2 else "b",
            "rare": "x" if n < 3 else "y",
        }
        for n in range(100)
    }
    audience = [f"u{n}" for n in range(0, 100, 4)] + [f"u{n}" for n in range(1, 26)]
    rows = served(("faith",), attributes, audience)
    assert rows[0] == ("country: FR", "25%", "62%", "2.48")
    assert {row[0] for row in rows} == {"country: FR", "country: DE", "rare: y"}
