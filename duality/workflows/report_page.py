"""The page of a report: sentences, tables and figures put into one HTML text.

Everything from data (ids, names, file names) goes through the template's escaping; only the figures'
SVG is taken as it is, and Vega writes text into it escaped.

Needs: jinja2 (the extra `report`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from duality.workflows import report_tables as tables
from duality.workflows import report_words as words

TEMPLATE = "report_page.html.jinja"

Part = Mapping[str, Any]


def render(document: Part, evidence: Part, figures: Mapping[str, str], about: words.About) -> str:
    """The page.

    Args:
        document, evidence, about: as for `write_report`.
        figures: {name: SVG} of `report_figures.figures_of`.
    """
    drawn = {name: inline(name, svg) for name, svg in figures.items()}
    sections = [
        _section(direction, part, evidence.get(direction), drawn) for direction, part in document.items()
    ]
    return template(TEMPLATE).render(
        about=about,
        sections=sections,
        calibration=_calibration(about.calibration, drawn),
        glossary=words.GLOSSARY,
    )


def template(name: str) -> jinja2.Template:
    """A page's template; what is put into it is escaped, and nothing may be missing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _section(direction: str, part: Part, details: Part | None, drawn: Mapping[str, Markup]) -> dict[str, Any]:
    own = {name: svg for name, svg in drawn.items() if name.startswith(f"{direction}-")}
    matched = part.get(words.MATCHED)
    source, target = words.ENDS[direction]
    return {
        "direction": direction,
        "title": words.TITLES[direction],
        "source": source,
        "target": target,
        "outcome": words.outcome(direction, part),
        "facts": words.measured_facts(direction, part),
        "overview": own[f"{direction}-overview"],
        "pools": [_pool_tables("All candidates" if matched else "", "", part)]
        + ([_pool_tables("Time-matched candidates", _matched_words(matched), matched)] if matched else []),
        "curves": [svg for name, svg in own.items() if "-recall" in name or "-ranks" in name],
        "segments": _segments(direction, details, own),
        "segment_pool": details["pools"][-1]["words"] if details else "",
        "strongest": details["pools"][-1]["strongest"] if details else None,
        "events": tables.events_tables(part),
        "events_figure": own.get(f"{direction}-by-events"),
        "exposure": tables.exposure_table(direction, details) if details else None,
        "detailed": details is not None,
    }


def _pool_tables(title: str, text: str, part: Part) -> dict[str, Any]:
    compared = tables.difference_table("This system minus each baseline", part)
    found = [tables.metric_table("Metrics", part), *([compared] if compared else [])]
    return {"title": title, "words": text, "tables": found}


def _matched_words(matched: Part) -> str:
    return (
        f"{matched['candidates'].capitalize()} ({matched['median_candidates']:,.0f} candidates at the median). "
        "Over all users, a system can score well by finding who is online; among users who are all about to act, that "
        "helps less, so claims rest on these numbers."
    )


def _segments(
    direction: str, details: Part | None, own: Mapping[str, Markup]
) -> list[tuple[Markup, tables.Table]]:
    if details is None:
        return []
    drawn = [own[f"{direction}-by-{division['name']}"] for division in details["segments"]]
    return list(zip(drawn, tables.segment_tables(direction, details), strict=True))


def _calibration(facts: Part | None, drawn: Mapping[str, Markup]) -> dict[str, Any] | None:
    if facts is None:
        return None
    after, measured_on = facts.get("after"), facts.get("measured_on")
    return {
        "kind": facts["kind"],
        "error": None if after is None else tables.calibration_error(after["ece"]),
        "measured_on": measured_on,
        "figure": drawn.get("reliability"),
        "table": tables.calibration_table(facts),
    }


def inline(name: str, svg: str) -> Markup:
    """An SVG that can stand beside others in one page: its ids are its own, and it has a name."""
    text = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>", "", svg, flags=re.S)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    label = name.replace("-", " ")
    return Markup(text.strip().replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
