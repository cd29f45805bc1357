"""The page says what the document says, needs nothing from outside, and no name can break it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_worlds import SMALL, synthetic_log

import duality
from duality.data.dataset import Dataset
from duality.data.splits import split_named
from duality.errors import InputError, MissingExtraError
from duality.evaluation.protocol import report
from duality.evaluation.queries import DIRECTIONS, ITEM_TO_USER, USER_TO_ITEM
from duality.model.folder import ModelFolder
from duality.workflows.calibration_file import write_calibration
from duality.workflows.evaluate import Task, measured
from duality.workflows.report import about_of, check_report, details, write_report
from duality.workflows.report_words import About, verdict

pytest.importorskip("jinja2", reason="the extra report is not installed")
pytest.importorskip("vl_convert", reason="the extra report is not installed")

VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = '<script>alert("x")</script>&"\'{{7*7}}</svg>'


class Page(HTMLParser):
    """Tables by caption, words, links; unbalanced tags fail."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        self.links += [found[key] or "" for key in ("href", "src", "xlink:href") if key in found]
        self.ids += [found["id"] or ""] if "id" in found else []
        assert not [name for name in found if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "caption" in self.open:
            self.tables[-1] = (self.tables[-1][0] + data, self.tables[-1][1])
        elif "td" in self.open or "th" in self.open:
            joint = " " if "small" in self.open or "em" in self.open else ""
            self.tables[-1][1][-1][-1] += joint + data


def evidence_of(root: Path, directions: tuple[str, ...], run: Path | None = None, **how: Any) -> Any:
    """(document, evidence, about) of the model in a folder, as `duality evaluate` makes them."""
    folder = None if run is not None else ModelFolder.open(root / "models/default")
    dataset = Dataset.open(root / "datasets/default")
    division = split_named(dataset, "leave-one-out")
    how = {"candidates": "full", "ks": None, "seed": 0, "matched": 20} | how
    task = Task(folder, dataset, division, "test", True, run, how)
    document, evidence = {}, {}
    for direction in directions:
        found = measured(task, direction)
        document[direction] = report(found[0], protocol=division.name, split="test", seed=0)
        evidence[direction] = details(*found)
    return document, evidence, about_of(folder, dataset, run=run)


@pytest.fixture(scope="module")
def both(world: Path) -> Any:
    return evidence_of(world, DIRECTIONS)


@pytest.fixture(scope="module")
def page(both: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    document, evidence, about = both
    path = tmp_path_factory.mktemp("report") / "a.html"
    assert write_report(document, evidence, path, about=about) == [path]
    return path.read_text(encoding="utf-8")


def numbers(text: str) -> list[float]:
    """Numbers in a cell, a minus sign for any dash before them."""
    return [float(found) for found in re.findall(r"[-+]?\d+\.\d+", text.replace("−", "-"))]


def assert_shows(cell: str, entry: dict[str, float | None], value: str) -> None:
    shown = numbers(cell)
    wanted = [entry[key] for key in (value, "low", "high") if entry[key] is not None]
    assert shown == pytest.approx(wanted, abs=0.0051 if "×" in cell else 0.000051)


def assert_tables_of(parsed: Page, place: int, tables: dict[str, Any]) -> None:
    """Two tables from `place` on hold all metrics and all differences, in order."""
    (caption, rows), (compared, gaps) = parsed.tables[place : place + 2]
    assert (caption, compared) == ("Metrics", "This system minus each baseline")
    assert rows[0] == ["metric", "this system", *tables["baselines"]]
    assert len(rows) == len(gaps) == len(tables["metrics"]) + 1
    for (name, own), row, gap in zip(tables["metrics"].items(), rows[1:], gaps[1:], strict=True):
        assert row[0].lower() == gap[0].lower() == name
        for cell, entry in zip(row[1:], [own, *(t[name] for t in tables["baselines"].values())], strict=True):
            assert_shows(cell, entry, "value")
        for cell, table in zip(gap[1:], tables["comparisons"].values(), strict=True):
            assert_shows(cell, table[name], "difference")
            assert cell.endswith(verdict(table[name]))


def test_the_numbers_on_the_page_are_those_of_the_document(both: Any, page: str) -> None:
    document, evidence, _ = both
    parsed = Page(page)
    starts = [n for n, (caption, _) in enumerate(parsed.tables) if caption == "Metrics"]
    assert_tables_of(parsed, starts[0], document[USER_TO_ITEM])
    assert_tables_of(parsed, starts[1], document[ITEM_TO_USER])
    assert_tables_of(parsed, starts[2], document[ITEM_TO_USER]["time_matched"])
    shown = [rows for caption, rows in parsed.tables if caption.startswith("By ")]
    divisions = [division for found in evidence.values() for division in found["segments"]]
    assert len(shown) == len(divisions) == 6
    for rows, division in zip(shown, divisions, strict=True):
        for cells, row in zip(rows[1:], division["rows"], strict=True):
            assert cells[:3] == [row["label"], str(row["queries"]), str(row["sources"])]
            for cell, entry in zip(cells[3:5], row["metrics"].values(), strict=True):
                assert_shows(cell, entry, "value")
            for cell, entry in zip(cells[5:], row["differences"].values(), strict=True):
                assert_shows(cell, entry, "difference")


def test_segments_average_to_the_tables_claims_rest_on(both: Any) -> None:
    document, evidence, _ = both
    for direction, tables in (
        (USER_TO_ITEM, document[USER_TO_ITEM]),
        (ITEM_TO_USER, document[ITEM_TO_USER]["time_matched"]),
    ):
        for division in evidence[direction]["segments"]:
            for name in ("ndcg@10", "recall@100"):
                total = sum(row["queries"] * row["metrics"][name]["value"] for row in division["rows"])
                assert total / document[direction]["queries"] == pytest.approx(
                    tables["metrics"][name]["value"]
                )


def test_the_page_stands_alone(page: str) -> None:
    parsed = Page(page)
    assert not parsed.tags & {"script", "link", "iframe", "object", "embed", "img"}
    assert all(link.startswith("#") for link in parsed.links)
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)
    assert len(set(parsed.ids)) == len(parsed.ids)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {f"#{name}" for name in parsed.ids}
    assert len(page.encode()) < 2_000_000
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.2, "better"),
        (-0.2, -0.1, "worse"),
        (-0.1, 0.1, "no difference shown"),
        (0.0, 0.1, "no difference shown"),
    ],
)
def test_a_difference_is_claimed_only_when_its_interval_is_off_zero(
    low: float, high: float, said: str
) -> None:
    assert verdict({"difference": (low + high) / 2, "low": low, "high": high}) == said


def test_names_from_data_are_harmless(both: Any, tmp_path: Path) -> None:
    """Names of systems and baselines, labels and reasons reach the page and the figures as text only."""
    document, evidence, _ = both

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {HOSTILE if key == "markov" else key: renamed(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [renamed(entry) for entry in value]
        return HOSTILE if value == "markov" else value

    document, evidence = renamed(document), renamed(evidence)
    document[USER_TO_ITEM]["protocol"]["dropped"] = {HOSTILE: 3}
    document[USER_TO_ITEM]["protocol"]["name"] = f"file:{HOSTILE}"
    evidence[USER_TO_ITEM]["segments"][0]["rows"][0]["label"] = HOSTILE
    evidence[USER_TO_ITEM]["pools"][0]["strongest"] = HOSTILE
    path = tmp_path / "hostile.html"
    about = About(HOSTILE, HOSTILE, {HOSTILE: HOSTILE})
    written = write_report(document, evidence, path, about=about, figures=tmp_path / "figures")
    text = path.read_text(encoding="utf-8")
    assert "script" not in Page(text).tags
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", text)[0]
    for drawing in [file for file in written if file.suffix == ".svg"]:
        assert "<script" not in drawing.read_text(encoding="utf-8")
        ElementTree.parse(drawing)


def test_figures_are_written_beside_the_page(both: Any, tmp_path: Path) -> None:
    document, evidence, about = both
    files = write_report(document, evidence, tmp_path / "r.html", about=about, figures=tmp_path / "f")
    names = {file.name for file in files[1:]}
    assert {
        "user-to-item-recall.png",
        "item-to-user-ranks-time-matched.svg",
        "item-to-user-by-time.png",
    } <= names
    assert {file.name for file in (tmp_path / "f").iterdir()} == names
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in files if file.suffix == ".png")


def test_one_direction_without_details_says_so(both: Any, tmp_path: Path) -> None:
    document, _, about = both
    part = document[ITEM_TO_USER] | {"baselines": {}, "comparisons": {}}
    part["time_matched"] = part["time_matched"] | {"baselines": {}, "comparisons": {}}
    write_report({ITEM_TO_USER: part}, {}, tmp_path / "r.html", about=about)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "were not computed for this direction" in text
    assert "Items for a user" not in text
    assert "No baseline was measured" in text
    assert [caption for caption, _ in Page(text).tables] == ["Metrics", "Metrics"]


def test_sampled_candidates_come_with_a_warning(world: Path, tmp_path: Path) -> None:
    document, evidence, about = evidence_of(world, (USER_TO_ITEM,), candidates="uniform:5", ks=(1, 3))
    write_report(document, evidence, tmp_path / "r.html", about=about)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "compare only with the same sampling" in text
    assert "in first place" in text
    assert_tables_of(Page(text), 0, document[USER_TO_ITEM])


def test_a_run_file_is_the_system(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine & <yours>.csv"
    path.write_text("query,id,rank\n" + "".join(f"u{u},i{u % 7},1\nu{u},i{u % 5 + 8},2\n" for u in range(60)))
    document, evidence, about = evidence_of(world, (USER_TO_ITEM,), run=path)
    exposure = evidence[USER_TO_ITEM]["exposure"]["mine & <yours>"]
    assert exposure["coverage"] <= 12 / 60
    assert exposure["slots"] <= 2 * exposure["lists"]
    write_report(document, evidence, tmp_path / "r.html", about=about)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Evaluation of mine &amp; &lt;yours&gt; on default" in text
    assert_tables_of(Page(text), 0, document[USER_TO_ITEM])


def test_a_log_without_time(tmp_path: Path) -> None:
    log = synthetic_log(users=40, items=20)
    ordered = log.sort_by("timestamp").drop_columns(["timestamp"])
    ordered = ordered.append_column("order", pa.array(np.arange(len(ordered))))
    duality.import_events(ordered, tmp_path / "datasets/default", order_column="order")
    duality.train(
        tmp_path / "datasets/default", tmp_path / "models/default", settings=[*SMALL, "train.epochs=1"]
    )
    document, evidence, about = evidence_of(tmp_path, DIRECTIONS)
    write_report(document, evidence, tmp_path / "r.html", about=about)
    parsed = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    captions = [caption for caption, _ in parsed.tables]
    assert captions.count("Metrics") == 2
    assert "By time" not in captions
    assert captions.count("By length of history") == 2


def test_cold_protocols_show_every_number_of_given_events(tmp_path: Path) -> None:
    duality.import_events(synthetic_log(users=120, items=40), tmp_path / "d")
    settings = [*SMALL, "train.epochs=1", "split.name=cold-item"]
    duality.train(tmp_path / "d", tmp_path / "m", settings=settings)
    document = duality.evaluate(tmp_path / "m", baselines=True)
    about = about_of(ModelFolder.open(tmp_path / "m"), Dataset.open(tmp_path / "d"))
    write_report(document, {}, tmp_path / "r.html", about=about, figures=tmp_path / "f")
    parsed = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert (tmp_path / "f/item-to-user-by-events.svg").exists()
    shown = dict(parsed.tables[-4:])
    assert next(iter(shown)) == "NDCG@10 by given events, all candidates"
    rows = shown["NDCG@10 by given events, time-matched candidates"]
    steps = document[ITEM_TO_USER]["by_events"]
    assert [row[0] for row in rows[1:]] == list(steps) == ["1", "3", "5", "10"]
    for row, step in zip(rows[1:], steps.values(), strict=True):
        tables = step["time_matched"]
        entries = [tables["metrics"]["ndcg@10"], *(t["ndcg@10"] for t in tables["baselines"].values())]
        for cell, entry in zip(row[1:], entries, strict=True):
            assert_shows(cell, entry, "value")


def test_the_calibration_of_the_model_is_shown(both: Any, world: Path, tmp_path: Path) -> None:
    from duality.calibration import Platt

    document, evidence, about = both
    assert about.calibration is None
    bins = [
        {"predicted": p, "observed": p + 0.01, "low": p - 0.02, "high": p + 0.04, "rows": 100.0}
        for p in (0.2, 0.6)
    ]
    facts = {
        "measured_on": {
            "rows": 2000,
            "users": 300,
            "positives": 5,
            "from": "2024-01-01Z",
            "to": "2024-02-01Z",
        },
        "after": {"ece": {"value": 0.013, "low": 0.005, "high": 0.016, "floor": 0.01}},
    }
    for extra, shown in (({"reliability": bins}, True), ({}, False)):
        model = ModelFolder.open(world / "models/default")
        folder = replace(model, path=tmp_path / f"m{shown}")
        folder.path.mkdir()
        write_calibration(folder.path, folder.fingerprint, Platt(1.0, -0.5), {**facts, **extra})
        told = about_of(folder, Dataset.open(world / "datasets/default"))
        write_report(document, evidence, tmp_path / "r.html", about=told)
        text = (tmp_path / "r.html").read_text(encoding="utf-8")
        tables = dict(Page(text).tables)
        assert "1.3% away from what happened (95% interval 0.5% to 1.6%)" in text
        assert "2,000 impressions of 300 users" in text
        assert ("reliability-" in text or 'aria-label="reliability"' in text) == shown
        if shown:
            assert tables["Reliability"][1] == ["20.0%", "21.0% [18.0%, 24.0%]", "100"]


def test_what_cannot_be_written_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"write r\.html"):
        check_report(Path("r.pdf"))
    for module in ("report_drawing", "report_figures", "report_page"):
        monkeypatch.delitem(sys.modules, f"duality.workflows.{module}", raising=False)
        monkeypatch.delattr(f"duality.workflows.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(
        MissingExtraError, match=r'vl-convert is not installed: pip install "duality\[report\]"'
    ):
        check_report(Path("r.html"))


@pytest.mark.parametrize("extra", [[], ["--baselines", "--figures", "pictures"]])
def test_the_command_writes_the_page(world: Path, tmp_path: Path, extra: list[str]) -> None:
    arguments = [
        "evaluate",
        "--model",
        str(world / "models/default"),
        "--report",
        "page.html",
        *extra,
        "--json",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "duality.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"{document[USER_TO_ITEM]['metrics']['ndcg@10']['value']:.4f}".lstrip("0") in page
    assert bool(list(tmp_path.glob("pictures/*.svg"))) == ("--figures" in extra)


def test_figures_without_a_page_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--report"):
        duality.evaluate(world / "models/default", figures=tmp_path / "f")
