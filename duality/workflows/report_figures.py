"""The figures of a report as Vega-Lite specifications, made of the document and its details.

How they look and are drawn: report_drawing.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from duality.workflows import report_words as words
from duality.workflows.report_drawing import (
    CHANCE,
    COLOURS,
    CONFIG,
    GREY,
    INK,
    SCHEMA,
    Figure,
    layered,
    log_axis,
    nominal,
    quantity,
    styles,
)
from duality.workflows.report_tables import SYSTEM, headlines

Part = Mapping[str, Any]


def figures_of(document: Part, evidence: Part, calibration: Part | None) -> dict[str, Figure]:
    """Every figure by name, in the order of the page.

    Names start with the direction: `-overview`, `-recall`, `-ranks` (with `-time-matched` where a
    second pool is), `-by-history`, `-by-popularity`, `-by-time`, `-by-events`; and `reliability`.
    """
    figures: dict[str, Figure] = {}
    for direction, part in document.items():
        figures[f"{direction}-overview"] = overview(direction, part)
        details = evidence.get(direction)
        if details is not None:
            for pool in details["pools"]:
                suffix = "" if pool["name"] == "all" else f"-{pool['name']}"
                figures[f"{direction}-recall{suffix}"] = recall(direction, pool, details["system"])
                figures[f"{direction}-ranks{suffix}"] = ranks(direction, pool, details["system"])
            for division in details["segments"]:
                figures[f"{direction}-by-{division['name']}"] = segments(
                    division, details["pools"][-1]["strongest"]
                )
        if "by_events" in part:
            figures[f"{direction}-by-events"] = by_events(part)
    if calibration is not None and calibration.get("reliability"):
        figures["reliability"] = reliability(calibration["reliability"])
    return figures


def overview(direction: str, part: Part) -> Figure:
    """The headline metric of every scorer with its interval."""
    tables = words.claimed(part)
    metric = words.headline(tables["metrics"], "ndcg") or next(iter(tables["metrics"]))
    entries = {SYSTEM: tables["metrics"], **tables["baselines"]}
    rows = [{"name": name, **found[metric]} for name, found in entries.items()]
    where = ", time-matched users" if tables is not part else ""
    y = nominal("name", list(entries))
    fill = {"condition": {"test": _is_system(), "value": COLOURS[0]}, "value": GREY}
    x = {**quantity("value", words.metric_title(metric)), "axis": {"tickCount": 8}}
    bar = {"mark": {"type": "bar", "height": {"band": 0.62}}, "encoding": {"x": x, "y": y, "color": fill}}
    rule = {
        "mark": {"type": "rule", "strokeWidth": 1.6, "color": INK},
        "encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}, "y": y},
    }
    title = f"{words.metric_title(metric)} with 95% intervals{where}"
    return layered(rows, title, [bar, rule], height=max(26 * len(rows), 80))


def recall(direction: str, pool: Part, system: str) -> Figure:
    """Recall@k over k: the system with its band, the strongest baselines, a random order."""
    curve = pool["curve"]
    names = list(curve["recall"])
    kept = _strongest(curve, names, system)
    lines = {_shown(name, system): curve["recall"][name] for name in kept} | {CHANCE: curve["chance"]}
    rows = [
        {"k": k, "recall": value, "name": name}
        for name, values in lines.items()
        for k, value in zip(curve["k"], values, strict=True)
    ]
    band = [
        {"k": k, "low": low, "high": high}
        for k, low, high in zip(curve["k"], curve["low"] or [], curve["high"] or [], strict=False)
    ]
    x = log_axis("k", "k: places looked at", max(curve["k"]))
    y = {**quantity("recall", "Recall@k"), "axis": {"format": ".0%"}}
    order, colours, dashes = styles(list(lines))
    line = {
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {
            "x": x,
            "y": {**y, "scale": {"domain": [0, 1]}},
            "color": {"field": "name", "type": "nominal", "scale": colours, "sort": order, "title": None},
            "strokeDash": {"field": "name", "type": "nominal", "scale": dashes, "sort": order, "title": None},
            "strokeWidth": {"condition": {"test": _is_system(), "value": 3.2}, "value": 1.8},
        },
    }
    area = {
        "data": {"values": band},
        "mark": {"type": "area", "opacity": 0.22, "color": COLOURS[0]},
        "encoding": {"x": x, "y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
    }
    where = ", time-matched users" if pool["name"] != "all" else ""
    target = words.ENDS[direction][1]
    title = f"How deep one must look to find the {target}{where}"
    return layered(rows, title, [area, line] if band else [line])


def ranks(direction: str, pool: Part, system: str) -> Figure:
    """Share of the queries by rank of the target."""
    found = pool["ranks"]
    rows = [
        {"bin": label, "share": share, "name": _shown(name, system)}
        for name, shares in found["share"].items()
        for label, share in zip(found["bins"], shares, strict=True)
    ]
    names = [_shown(name, system) for name in found["share"]]
    colours = {"domain": names, "range": [COLOURS[0], COLOURS[3]][: len(names)]}
    bar = {
        "mark": {"type": "bar"},
        "encoding": {
            "x": {
                **nominal("bin", found["bins"]),
                "title": f"rank of the hidden {words.ENDS[direction][1]}",
                "axis": {"labelAngle": -35, "grid": False},
            },
            "xOffset": {"field": "name", "type": "nominal", "sort": names},
            "y": {**quantity("share", "share of queries"), "axis": {"format": "%"}},
            "color": {"field": "name", "type": "nominal", "scale": colours, "sort": names, "title": None},
        },
    }
    where = ", time-matched users" if pool["name"] != "all" else ""
    return layered(rows, f"Where the targets are ranked{where}", [bar])


def segments(division: Part, strongest: str | None) -> Figure:
    """The metrics by segment: the system with intervals, and the baseline it is compared with."""
    labels = [row["label"] for row in division["rows"]]
    panels = []
    for name in division["rows"][0]["metrics"]:
        rows = [{"label": row["label"], "name": SYSTEM, **row["metrics"][name]} for row in division["rows"]]
        others = [
            {
                "label": row["label"],
                "name": strongest,
                "value": own["value"] - row["differences"][name]["difference"],
            }
            for row, own in zip(division["rows"], rows, strict=True)
            if strongest is not None
        ]
        names = [SYSTEM, *([strongest] if strongest is not None else [])]
        panel = _dots(rows + others, labels, names, words.metric_title(name))
        panels.append({**panel, "width": 400, "height": 30 * len(rows)})
    panels[1:] = [_without_labels(panel) for panel in panels[1:]]
    return {
        "$schema": SCHEMA,
        "config": CONFIG,
        "title": f"By {division['words']}",
        "hconcat": panels,
        "spacing": 24,
    }


def by_events(part: Part) -> Figure:
    """Cold protocols: the headline metric over the number of given events."""
    steps = {n: words.claimed(step) for n, step in part["by_events"].items()}
    name = headlines(next(iter(steps.values())))[0]
    scorers = [SYSTEM, *next(iter(steps.values()))["baselines"]][: len(COLOURS)]
    rows = [
        {"n": n, "name": scorer, **(step["metrics"] if scorer == SYSTEM else step["baselines"][scorer])[name]}
        for n, step in steps.items()
        for scorer in scorers
    ]
    order, colours, dashes = styles(scorers)
    place = {
        "x": {
            "field": "n",
            "type": "nominal",
            "sort": list(steps),
            "title": "events given",
            "axis": {"labelAngle": 0},
        },
        "xOffset": {"field": "name", "type": "nominal", "sort": order},
        "color": {
            "field": "name",
            "type": "nominal",
            "scale": colours,
            "sort": order,
            "title": None,
            "legend": {"symbolType": "stroke"},
        },
    }
    dash = {"field": "name", "type": "nominal", "scale": dashes, "sort": order, "title": None}
    value = quantity("value", words.metric_title(name))
    ends = {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}}
    rule = {"mark": {"type": "rule", "strokeWidth": 1.4}, "encoding": {**place, **ends}}
    line = {
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {**place, "y": value, "strokeDash": {**dash, "legend": {"symbolType": "stroke"}}},
    }
    point = {
        "mark": {"type": "point", "filled": True, "size": 50, "opacity": 1},
        "encoding": {**place, "y": value},
    }
    title = f"{words.metric_title(name)} by the number of events given"
    return layered(rows, title, [rule, line, point])


def reliability(bins: Sequence[Part]) -> Figure:
    """Predicted against observed, with the diagonal of a perfect calibration."""
    rows = [dict(row) for row in bins]
    most = max(max(row["high"], row["predicted"]) for row in rows)
    axis = {"scale": {"domain": [0, most]}, "axis": {"format": "%"}}
    x = {**quantity("predicted", "predicted probability"), **axis}
    y = {**quantity("observed", "observed share"), **axis}
    diagonal = {
        "data": {"values": [{"predicted": 0, "observed": 0}, {"predicted": most, "observed": most}]},
        "mark": {"type": "line", "color": GREY, "strokeDash": [4, 4]},
        "encoding": {"x": x, "y": y},
    }
    rule = {
        "mark": {"type": "rule", "color": COLOURS[0], "strokeWidth": 1.6},
        "encoding": {"x": x, "y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
    }
    point = {
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1, "color": COLOURS[0]},
        "encoding": {"x": x, "y": y},
    }
    title = "Reliability: on the dashed line, probabilities are right"
    return layered(rows, title, [diagonal, rule, point], height=330, width=330)


def _dots(rows: Sequence[Part], labels: Sequence[str], names: Sequence[str], title: str) -> Figure:
    y = nominal("label", labels)
    value = {**quantity("value", title), "axis": {"tickCount": 6}}
    colours = {"domain": list(names), "range": [COLOURS[0], COLOURS[3]][: len(names)]}
    shapes = {"domain": list(names), "range": ["circle", "diamond"][: len(names)]}
    name = {"field": "name", "type": "nominal", "sort": list(names), "title": None}
    rule = {
        "mark": {"type": "rule", "color": COLOURS[0], "strokeWidth": 2},
        "encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}, "y": y},
    }
    point = {
        "mark": {"type": "point", "filled": True, "size": 75, "opacity": 1},
        "encoding": {
            "x": value,
            "y": y,
            "color": {**name, "scale": colours, "legend": {"symbolSize": 80}},
            "shape": {**name, "scale": shapes, "legend": {"symbolSize": 80}},
        },
    }
    return {"data": {"values": list(rows)}, "layer": [rule, point]}


def _without_labels(panel: Figure) -> Figure:
    bare = {"labels": False, "ticks": False}
    layers = [
        {**layer, "encoding": {**layer["encoding"], "y": {**layer["encoding"]["y"], "axis": bare}}}
        for layer in panel["layer"]
    ]
    return {**panel, "layer": layers}


def _strongest(curve: Part, names: Sequence[str], system: str) -> list[str]:
    """The system and as many others as there are colours, those with the largest area first."""
    area = {name: sum(curve["recall"][name]) for name in names}
    others = sorted((name for name in names if name != system), key=lambda name: -area[name])
    return [system, *others[: len(COLOURS) - 2]]


def _shown(name: str, system: str) -> str:
    return SYSTEM if name == system else name


def _is_system() -> str:
    return f"datum.name === '{SYSTEM}'"
