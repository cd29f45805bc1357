"""What is chosen on validation once training is over: the share of g, popularity, activity."""

from __future__ import annotations

import json
from typing import Any

import torch

from duality.config import Config
from duality.evaluation.queries import ITEM_TO_USER, USER_TO_ITEM, Queries, World
from duality.runtime import say
from duality.workflows.biases import choose_bias
from duality.workflows.scorers import States
from duality.workflows.share import choose_share


class ChooseConfig(Config):
    """`[choose]` of a recipe: what may be chosen; false leaves it out of the model.

    Activity is left out unless asked for: who acts next is mostly who is online, so it wins every test of the
    next event and gives all items the same few users (LOG.md, 2026-11-21).
    """

    generated_share: bool = True
    popularity: bool = True
    activity: bool = False


def choose(
    states: States, world: World, asked: dict[str, Queries], config: ChooseConfig, *, generates: bool
) -> dict[str, Any]:
    """Set the model's share and biases to what validation likes best.

    Args:
        states: of the model after training.
        world: what may be known on validation.
        asked: validation queries by direction.
        generates: whether the item encoder was trained, so that its vectors could be mixed in.

    Returns:
        `generated_share`, `popularity` and `activity` {`weight`, `seconds`}.
    """
    model = states.model
    if generates and config.generated_share:
        model.generated_share.fill_(choose_share(states, world, asked)[0])
    for name, direction in (("popularity", USER_TO_ITEM), ("activity", ITEM_TO_USER)):
        if getattr(config, name):
            best, _ = choose_bias(states, world, asked[direction], direction)
            getattr(model, name).copy_(torch.tensor(best, dtype=torch.float64))
    found: dict[str, Any] = {"generated_share": round(float(model.generated_share), 6)}
    for name in ("popularity", "activity"):
        found[name] = dict(zip(("weight", "seconds"), getattr(model, name).tolist(), strict=True))
    say(f"chosen on validation: {json.dumps(found)}")
    return found
