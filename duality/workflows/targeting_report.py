"""The page of a targeting run: how far campaigns can grow, who was left out, who is over- and under-served.

Everything from data goes through the template's escaping; counts are rounded (`duality.targeting.reach`).

Needs: jinja2 and vl-convert (the extra `report`).
Shapes: U users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from duality.targeting.outcome import Outcome
from duality.targeting.reach import overlaps, reach, rounded
from duality.workflows.report_drawing import Figure, layered, quantity, styles, svg
from duality.workflows.report_page import inline, template

TEMPLATE = "targeting_report.html.jinja"
MOST_VALUES, LEAST_USERS = 12, 20  # of an attribute that is shown; of a value that is
LINES = 6  # curves that can be told apart

Attributes = Mapping[str, Mapping[str, Any]]


def page(
    outcome: Outcome,
    document: Mapping[str, Any],
    about: Mapping[str, Any],
    attributes: Attributes,
) -> str:
    """The page as HTML.

    Args:
        document: what the run returns.
        about: where the vectors come from.
        attributes: by id, of the users who stand for all; sensitive columns are left out here.
    """
    people, sensitive = outcome.plan.people, outcome.file.run.sensitive_columns
    reached = reach(outcome.plan, outcome.market, outcome.filled)["campaigns"]
    campaigns = [
        {
            "id": part["id"],
            "words": _words(part, found),
            "funnel": [(step["step"], f"{step['left']:,}") for step in part["funnel"]],
            "served": served(sensitive, attributes, people.names(outcome.users(row))),
        }
        for row, (part, found) in enumerate(zip(reached, document["campaigns"], strict=True))
    ]
    return template(TEMPLATE).render(
        facts=_facts(outcome, document, about),
        outcome=_outcome(document),
        holdouts=sum(campaign.holdout is not None for campaign in outcome.file.campaigns),
        curve=inline("size-lift", svg(curve(reached))),
        campaigns=campaigns,
        overlaps=overlaps(outcome.file, outcome.market, outcome.assignment),
    )


def curve(reached: Sequence[Mapping[str, Any]]) -> Figure:
    """Lift over the size of the audience, of the first campaigns."""
    shown = reached[:LINES]
    rows = [
        {"campaign": part["id"], "users": max(point["users"], 1), "lift": point["lift"]}
        for part in shown
        for point in part["curve"]
    ]
    order, colours, dashes = styles([part["id"] for part in shown])
    line = {
        "mark": {"type": "line", "point": True, "strokeWidth": 2},
        "encoding": {
            "x": {"field": "users", "type": "quantitative", "title": "users", "scale": {"type": "log"}},
            "y": quantity("lift", "times as likely as the average user"),
            "color": {"field": "campaign", "type": "nominal", "sort": order, "scale": colours, "title": None},
            "strokeDash": {
                "field": "campaign",
                "type": "nominal",
                "sort": order,
                "scale": dashes,
                "title": None,
            },
        },
    }
    return layered(rows, "The best users first: lift by size of the audience", [line])


def served(
    sensitive: Sequence[str], attributes: Attributes, audience: Sequence[str]
) -> list[tuple[str, str, str, str]]:
    """Values of users' attributes, their shares among all and in the audience, and the ratio, most over-served first.

    Columns of few values that are not sensitive; values that few users have are left out.
    """
    found, members = [], [user for user in audience if user in attributes]
    for name in _columns(attributes):
        if name in sensitive:
            continue
        everybody = Counter(row.get(name) for row in attributes.values())
        if not 2 <= len(everybody) <= MOST_VALUES:
            continue
        chosen = Counter(attributes[user].get(name) for user in members)
        for value, count in everybody.items():
            if value is not None and count >= LEAST_USERS:
                shares = count / len(attributes), chosen[value] / max(len(members), 1)
                found.append((shares[1] / shares[0], f"{name}: {value}", *shares))
    ordered = sorted(found, key=lambda row: (-row[0], row[1]))
    return [(name, f"{all_:.0%}", f"{mine:.0%}", f"{times:.2f}") for times, name, all_, mine in ordered]


def _columns(attributes: Attributes) -> list[str]:
    """Names of columns whose cells are single values, in the order of the alphabet."""
    first = next(iter(attributes.values()), {})
    return sorted(name for name, value in first.items() if not isinstance(value, (list, np.ndarray)))


def _facts(outcome: Outcome, document: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, str]:
    return {
        "users": f"{rounded(outcome.plan.people.count):,}",
        "model": str(about.get("model")),
        "dataset": str(about.get("dataset")),
        "newest event": str(about.get("newest_event")),
        "scores": str(document["scores"]),
        "campaigns a user may be in": str(document["cap"]),
        "proof": f"no assignment can be better by more than a share of {max(document['gap'], 0):.1g} of the total",
    }


def _outcome(document: Mapping[str, Any]) -> str:
    short = [campaign["id"] for campaign in document["campaigns"] if campaign["size"] < campaign["needed"]]
    if not short:
        return "Every campaign has the users it needs."
    return f"Not enough users could be had for {', '.join(short)}."


def _words(part: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    text = f"{part['found']:,} of {part['asked']:,} users asked for"
    if found["holdout"]:
        text += f", about {rounded(found['holdout']):,} of them held out"
    if found["expanded"]:
        text += f", about {rounded(found['expanded']):,} beyond the include rule"
    return f"{text}."
