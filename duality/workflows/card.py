"""The model card: what a model was trained on, how it was judged, what it reached."""

from __future__ import annotations

from typing import Any


def model_card(config: dict[str, Any], document: dict[str, Any]) -> str:
    """Markdown for the model folder's README."""
    data, split = config["data"], config["split"]["name"]
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in document["validation"].items())
    order = "real times" if data["timed"] else "an order per user, no time"
    return f"""# Two-sided model {config["fingerprint"]}

User encoder F over items and item encoder G over users, trained jointly in one space of
{config["dim"]} dimensions.

## Data
{data["users"]:,} users, {data["items"]:,} items, {data["events"]:,} events with {order};
{data["training_events"]:,} of them trained the weights. Fingerprint `{data["fingerprint"]}`.

## Protocol
Split: {split}. The epoch was chosen on validation (`{config["train"]["metric"]}`), full ranking over all
items, seen ones filtered, ties against the model. The test events were not looked at.

## Validation, best epoch {document["best_epoch"]} of {document["epochs"]}
| metric | value |
|---|---|
{rows}

Trained in {document["seconds"]:,.0f} s at {document["positions_per_second"]:,} positions/s.
Test numbers with intervals and baselines: `duality evaluate --model FOLDER --baselines`.
"""
