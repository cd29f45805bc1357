"""Cosine scores: inner products of unit items and of users as long as the temperature says."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from model_worlds import both_batches, dataset, everything, rivals
from safetensors.torch import load_file, save_file

from duality.data.histories import user_histories
from duality.embeddings import stored_items, stored_users, user_states
from duality.encoders.base import Layout
from duality.model.bank import StateBank
from duality.model.loss_config import LossConfig
from duality.model.objective import Objective
from duality.model.two_sided import ModelConfig, TwoSided

TEMPERATURE = 0.1


def made(**settings: object) -> TwoSided:
    torch.manual_seed(0)
    shape = {"hidden": 16, "dropout": 0.0}
    config = {
        "dim": 16,
        "score": "cosine",
        "temperature": TEMPERATURE,
        "user_encoder": shape,
        "item_encoder": shape,
    }
    return TwoSided(10, ModelConfig.model_validate(config | settings))


def test_scores_are_cosines_over_the_temperature_also_as_stored() -> None:
    world, model = dataset(), made().eval()
    states = user_states(model, world, user_histories(world, everything(world)), model.item_table.detach())
    free = model.parametrizations.item_table.original.detach()
    cosines = torch.nn.functional.cosine_similarity(states[:, None], free[None], dim=2)
    assert float(cosines.abs().max()) <= 1.0
    torch.testing.assert_close(states @ model.item_table.detach().T, cosines / TEMPERATURE)
    scores = stored_users(model, states) @ stored_items(model.item_table).T
    np.testing.assert_allclose(np.exp(scores).sum(1), 1.0, atol=1e-4)
    torch.testing.assert_close(model.empty_user.norm(), torch.tensor(1 / TEMPERATURE))


@pytest.mark.parametrize("learned", [False, True])
def test_a_step_moves_the_temperature_if_it_is_learned(learned: bool) -> None:
    world, model = dataset(), made(learn_temperature=learned)
    task = Objective(
        model,
        LossConfig(),
        *[StateBank(len(world.event_user), model.dim) for _ in range(2)],
        np.random.default_rng(0),
        rivals=rivals(world),
    )
    users, items = both_batches(world)
    losses = task.step(users, items, remake_users=False)
    sum(losses.values()).backward()
    length = model.parametrizations.empty_user[0]
    assert math.isclose(float(length.log_scale.detach().exp()), 1 / TEMPERATURE, rel_tol=1e-6)
    if learned:
        assert abs(float(length.log_scale.grad)) > 0
    else:
        assert dict(model.named_buffers())["parametrizations.empty_user.0.log_scale"] is length.log_scale
    assert model.parametrizations.item_table.original.grad.abs().sum() > 0


def test_a_stored_model_and_a_copy_score_alike_and_can_grow(tmp_path: Path) -> None:
    model = made(learn_temperature=True)
    with torch.no_grad():
        model.parametrizations.empty_user[0].log_scale.fill_(3.0)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "m.safetensors")
    again = made(learn_temperature=True)
    again.load_state_dict(load_file(tmp_path / "m.safetensors"))
    rows, layout = torch.randn(4, 16), Layout(np.array([4]))
    expected = model.eval().user_states(rows, layout)
    torch.testing.assert_close(again.eval().user_states(rows, layout), expected)
    torch.testing.assert_close(copy.deepcopy(model).user_states(rows, layout), expected)
    table = again.item_table.detach()
    again.grow(13)
    torch.testing.assert_close(again.item_table[:10], table)
    torch.testing.assert_close(again.item_table.norm(dim=1), torch.ones(13))
    assert again.trained.tolist() == [True] * 10 + [False] * 3
