"""Encoders that multiply in bfloat16 while they train: near the same states and gradients, and what follows in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from duality.encoders.base import Layout
from duality.encoders.registry import ENCODERS
from duality.model.two_sided import ModelConfig, TwoSided


@pytest.mark.parametrize("name", list(ENCODERS))
def test_states_and_gradients_are_near_those_of_float32(name: str) -> None:
    torch.manual_seed(0)
    shape = {"name": name, "dropout": 0.0}
    model = TwoSided(
        10, ModelConfig.model_validate({"dim": 32, "user_encoder": shape, "item_encoder": shape})
    )
    rows, layout = torch.randn(30, 32), Layout(np.array([10, 20]), np.arange(30) * 10**9)
    direction, found = torch.randn(30, 32), {}
    for low in (None, torch.bfloat16):
        model.low = low
        for encoder in (model.user_encoder, model.item_encoder):
            if encoder is not None and encoder.noisy:
                torch.manual_seed(1)
                encoder.draw()
        inputs = rows.clone().requires_grad_()
        states = model.user_states(inputs, layout)
        (states * direction).sum().backward()
        found[low] = states.detach(), inputs.grad, model.item_states(inputs, layout).detach()
    assert not torch.equal(found[None][0], found[torch.bfloat16][0])
    for whole, lower in zip(found[None], found[torch.bfloat16], strict=True):
        assert lower.dtype == torch.float32
        assert float((whole - lower).norm() / whole.norm()) < 0.05
