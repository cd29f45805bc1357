"""How the figures of a report look: colours, axes, and their drawing as SVG and PNG without a network.

Plain Vega-Lite specifications, not altair objects: one dependency less, and what is drawn is what is read
here. Colours are those of Okabe & Ito (2008), which stay apart for colour-blind readers; lines have dashes
and points have shapes too, so that a grey print can be read.

Needs:  vl-convert (the extra `report`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import vl_convert

Figure = dict[str, Any]

CHANCE = "random order"
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
GREY, INK = "#8a8a8a", "#1a1a1a"
DASHES = ([1, 0], [7, 2], [2, 2], [8, 2, 2, 2], [4, 4], [12, 3])
WIDTH, HEIGHT = 470, 250
SCALE = 2  # PNG pixels per unit
CONFIG = {
    "background": "white",
    "padding": {"left": 14, "right": 10, "top": 5, "bottom": 5},
    "font": "Helvetica, Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": "#e4e4e4",
        "domainColor": GREY,
        "tickColor": GREY,
        "labelLimit": 220,
        "labelFlush": False,
    },
    "legend": {
        "orient": "bottom",
        "columns": 3,
        "labelColor": INK,
        "labelFontSize": 12,
        "labelLimit": 200,
        "symbolStrokeWidth": 2.5,
        "symbolSize": 300,
    },
    "title": {"color": INK, "fontSize": 13, "anchor": "start", "fontWeight": "bold"},
}


def svg(figure: Figure) -> str:
    """The figure as an SVG document."""
    return str(vl_convert.vegalite_to_svg(figure, allowed_base_urls=[]))


def png(figure: Figure) -> bytes:
    """The figure as a PNG of twice its size."""
    return bytes(vl_convert.vegalite_to_png(figure, scale=SCALE, allowed_base_urls=[]))


def layered(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    layers: Sequence[Mapping[str, Any]],
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Figure:
    """A figure of one panel: title, rows of data, and layers drawn over one another."""
    return {
        "$schema": SCHEMA,
        "config": CONFIG,
        "title": title,
        "width": width,
        "height": height,
        "data": {"values": list(rows)},
        "layer": list(layers),
    }


def nominal(field: str, order: Sequence[str]) -> dict[str, Any]:
    """An axis of names in a given order."""
    return {"field": field, "type": "nominal", "sort": list(order), "title": None}


def quantity(field: str, title: str) -> dict[str, Any]:
    """An axis of numbers that starts at 0."""
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": True}}


def log_axis(field: str, title: str, most: int) -> dict[str, Any]:
    """An axis from 1 to `most` with a tick per power of ten."""
    scale = {"type": "log", "domain": [1, max(most, 2)]}
    ticks = [10**power for power in range(len(str(most)))]
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": scale,
        "axis": {"values": ticks, "format": ",d"},
    }


def styles(names: Sequence[str]) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """Order, colours and dashes of lines; chance is grey and dotted."""
    colours = [GREY if name == CHANCE else COLOURS[place] for place, name in enumerate(names)]
    dashes = [[1, 3] if name == CHANCE else DASHES[place] for place, name in enumerate(names)]
    return list(names), {"domain": list(names), "range": colours}, {"domain": list(names), "range": dashes}
