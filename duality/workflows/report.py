"""`duality evaluate --report FILE.html`: one evaluation as a page that is read without the code.

Reads:  the JSON document of an evaluation, what was measured (ranks by query) for the parts that the
        document does not hold, and the model's `calibration.json` where there is one.
Writes: one HTML file without scripts or addresses; the figures as SVG and PNG where asked.
Needs:  the extra `report`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from duality.artifacts import atomic_file, read_json
from duality.data.dataset import Dataset
from duality.errors import InputError, MissingExtraError
from duality.evaluation.protocol import Measured
from duality.evaluation.queries import World
from duality.evaluation.ranking import Scorer
from duality.evaluation.report_curves import by_strength, rank_shares, recall_curve
from duality.evaluation.report_lists import exposure_of
from duality.evaluation.segments import by_columns, by_segment
from duality.model.folder import ModelFolder
from duality.workflows.calibration_file import FILE, MAKE, read_calibration
from duality.workflows.report_words import About

EXTRA = '"duality[report]"'
SUFFIXES = (".html", ".htm")


def details(
    measured: Measured,
    world: World,
    scorers: Sequence[Scorer],
    *,
    columns: pa.Table | None = None,
    lists: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """What the page shows beyond the document of one direction, ready for JSON.

    Args:
        measured, world, scorers: of `duality.evaluation.protocol.measure`.
        columns: `Dataset.event_attributes`; those of few values divide the queries too.
        lists: also measure the exposure of the first 10; scores one query per source once more.
        seed: of the bootstrap.

    Returns:
        `system`, the name of the first scorer; `pools`, a list of {`name`, `words`, `strongest`,
        `curve`, `ranks`}; `segments` over the last pool, which for users is the time-matched one; and
        `exposure` {scorer: measures} of the first and the strongest other.
    """
    pools = [_pool(measured, number, seed) for number in range(len(measured.pools))]
    last, strongest = len(pools) - 1, pools[-1]["strongest"]
    compared = [scorer for scorer in scorers if scorer.name in (scorers[0].name, strongest)]
    more = [] if columns is None else by_columns(columns, measured.queries)
    exposure = {scorer.name: exposure_of(scorer, measured, world) for scorer in compared if lists}
    return {
        "system": scorers[0].name,
        "pools": pools,
        "segments": by_segment(measured, world, pool=last, against=strongest, more=more, seed=seed),
        "exposure": {name: found for name, found in exposure.items() if found is not None},
    }


def _pool(measured: Measured, number: int, seed: int) -> dict[str, Any]:
    order = by_strength(measured, number)
    shown = [next(iter(measured.ranks)), *order[:1]]
    return {
        "name": measured.pools[number].name,
        "words": measured.pools[number].words,
        "strongest": order[0] if order else None,
        "curve": recall_curve(measured, pool=number, seed=seed),
        "ranks": rank_shares(measured, shown, pool=number),
    }


def check_report(path: Path) -> None:
    """Refuse what could not be written, before an evaluation takes its time.

    Raises:
        InputError: not an HTML file.
        MissingExtraError: the extra `report` is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--report {path}: a report is an HTML file, write {path.with_suffix('.html')}")
    _renderers()


def write_report(
    document: Mapping[str, Any],
    evidence: Mapping[str, Mapping[str, Any]],
    path: Path,
    *,
    about: About,
    figures: Path | None = None,
) -> list[Path]:
    """Write the page, and its figures as files where asked.

    Args:
        document: {direction: report} of `duality.workflows.evaluate.evaluate`.
        evidence: {direction: `details`}; a direction without has no segments and curves, and says so.
        path: FILE.html; written atomically.
        about: titles, counts and calibration.
        figures: folder for NAME.svg and NAME.png of every figure.

    Returns:
        The files written, the page first.

    Raises:
        InputError, MissingExtraError: see `check_report`.
    """
    check_report(path)
    page, figures_module, drawing = _renderers()
    specs = figures_module.figures_of(document, evidence, about.calibration)
    svg = {name: drawing.svg(figure) for name, figure in specs.items()}
    text = page.render(document, evidence, svg, about)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return [path, *(_write_figures(figures, specs, svg, drawing.png) if figures is not None else [])]


def _write_figures(
    folder: Path, specs: Mapping[str, Any], svg: Mapping[str, str], png: Callable[[Any], bytes]
) -> list[Path]:
    written = []
    for name, figure in specs.items():
        for suffix, content in ((".svg", svg[name].encode()), (".png", png(figure))):
            with atomic_file(folder / f"{name}{suffix}") as temporary:
                temporary.write_bytes(content)
            written.append(folder / f"{name}{suffix}")
    return written


def _renderers() -> tuple[Any, Any, Any]:
    """The modules that make text and figures.

    Raises:
        MissingExtraError: the extra `report` is not installed.
    """
    try:
        from duality.workflows import report_drawing, report_figures, report_page
    except ImportError as error:
        if error.name not in ("jinja2", "vl_convert"):
            raise
        raise MissingExtraError(error.name.replace("_", "-"), EXTRA) from None
    return report_page, report_figures, report_drawing


def about_of(folder: ModelFolder | None, dataset: Dataset, *, run: Path | None = None) -> About:
    """Titles and counts of a model (or of ranked lists) on a dataset, with the model's calibration."""
    time = "real times" if dataset.timed else "an order per user, no time"
    facts = {
        "Data": f"{dataset.num_users:,} users, {dataset.num_items:,} items, {dataset.num_events:,} events with {time}; "
        f"fingerprint {dataset.fingerprint}"
    }
    if run is not None:
        return About(run.stem, dataset.path.resolve().name, {"System": "ranked lists from a file", **facts})
    assert folder is not None
    facts = {"System": f"two-sided model of {folder.config['dim']} dimensions, {folder.fingerprint}", **facts}
    return About(folder.path.resolve().name, dataset.path.resolve().name, facts, calibration_of(folder))


def calibration_of(folder: ModelFolder) -> dict[str, Any] | None:
    """The stored facts about the model's score calibration; None where there is none.

    Raises:
        InputError, DamageError: see `read_calibration`.
    """
    if not (folder.path / FILE).is_file():
        return None
    read_calibration(folder.path, folder.fingerprint)
    document = read_json(folder.path / FILE, what="score calibration", make=MAKE)
    return {"kind": document["map"]["kind"], **document}
