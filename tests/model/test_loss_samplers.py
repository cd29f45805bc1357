"""Negatives that a recipe chooses: defaults unchanged, other samplers unbiased, bad names refused early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from model_worlds import both_batches, dataset, rivals

from duality.config import validate, with_overrides
from duality.encoders.transformer import TransformerConfig
from duality.errors import ConfigError
from duality.model.bank import StateBank
from duality.model.batch import Batch
from duality.model.loss_config import LossConfig
from duality.model.losses import softmax_loss
from duality.model.negatives import LiveTable, draw_negatives, item_sampler
from duality.model.objective import Objective
from duality.model.two_sided import ModelConfig, TwoSided
from duality.samplers import Uniform
from duality.workflows.recipe import Recipe, load_recipe

ITEMS, ROWS, DIM = 300, 40, 8
COUNTS = np.random.default_rng(0).integers(0, 90, ITEMS)
SPECS = (
    "uniform",
    "popularity:0.75",
    "mixture:0.5*uniform+0.5*popularity:1",
    "mixture:0.5*uniform+0.5*hard:20",
)


def vectors() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """States, item table and each row's own item."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(ROWS, DIM, generator=generator, dtype=torch.float32)
    table = torch.randn(ITEMS, DIM, generator=generator, dtype=torch.float32) / 2
    return states, table, np.random.default_rng(1).integers(ITEMS, size=ROWS)


def sampled(spec: str, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and log-partition of the states against n draws."""
    states, table, own = vectors()
    sampler = item_sampler(spec, COUNTS, lambda: table)
    drawn, column, offset = draw_negatives(sampler, n, own, states, np.random.default_rng(seed))
    return softmax_loss(
        states,
        table[own],
        table[drawn],
        torch.from_numpy(column),
        offset=torch.from_numpy(offset).float(),
    )


@pytest.mark.parametrize("spec", SPECS)
def test_the_sampled_partition_is_that_of_all_items_on_average(spec: str) -> None:
    states, table, _ = vectors()
    full = (states @ table.T).logsumexp(1).exp()
    draws = torch.stack([sampled(spec, 100, seed)[1].exp() for seed in range(400)])
    error = draws.std(0) / 20
    assert ((draws.mean(0) - full).abs() < 5 * error).all()


def test_leaving_out_the_correction_would_be_noticed() -> None:
    states, table, own = vectors()
    full = (states @ table.T).logsumexp(1).exp()
    sampler, rng = item_sampler("popularity:1", COUNTS, lambda: table), np.random.default_rng(0)
    totals = []
    for _ in range(200):
        drawn, column, _ = draw_negatives(sampler, 100, own, states, rng)
        same = float(np.log(ITEMS / len(drawn)))
        columns = torch.from_numpy(column)
        totals.append(softmax_loss(states, table[own], table[drawn], columns, offset=same)[1].exp())
    draws = torch.stack(totals)
    assert not ((draws.mean(0) - full).abs() < 5 * draws.std(0) / 200**0.5).all()


def test_offsets_per_candidate_match_brute_force_with_gradients() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (6, 6, 5)]
    columns, offset = torch.tensor([0, -1, 4, -1, 2, 2]), torch.randn(5, dtype=torch.float64)
    queries, positives, candidates = tensors
    scores = queries @ candidates.T + offset
    own = (queries * positives).sum(1)
    competes = torch.arange(5) != columns[:, None]
    total = torch.cat((own[:, None], scores.masked_fill(~competes, -torch.inf)), 1).logsumexp(1)
    loss, log_partition = softmax_loss(queries, positives, candidates, columns, offset=offset)
    torch.testing.assert_close(loss, (total - own).mean())
    torch.testing.assert_close(log_partition, total)
    expected = torch.autograd.grad((total - own).mean(), tensors)
    for ours, theirs in zip(torch.autograd.grad(loss, tensors), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_positive_is_not_weighted_by_its_chance_of_being_drawn() -> None:
    """A positive that popularity draws often scores as one that it never draws."""
    states, table, _ = vectors()
    own = np.full(ROWS, int(COUNTS.argmax()))
    candidates = torch.arange(10)
    offset = torch.linspace(-3, 3, 10)
    without = torch.full((ROWS,), -1)
    _, total = softmax_loss(states, table[own], table[candidates], without, offset=offset)
    expected = torch.logaddexp((states * table[own]).sum(1), (states @ table[:10].T + offset).logsumexp(1))
    torch.testing.assert_close(total, expected)


def objective(**settings: object) -> tuple[Objective, tuple[Batch, Batch]]:
    world = dataset(seed=1)
    torch.manual_seed(0)
    shape = TransformerConfig(hidden=16, dropout=0.0)
    model = TwoSided(10, ModelConfig(dim=16, user_encoder=shape, item_encoder=shape))
    users, items = (StateBank(world.num_events, model.dim) for _ in range(2))
    config = validate(LossConfig, settings, source="test")
    counts = np.bincount(world.event_item, minlength=10)
    sampler = item_sampler(config.sampler, counts, lambda: model.item_table)
    made = Objective(
        model, config, users, items, np.random.default_rng(0), rivals=rivals(world), sampler=sampler
    )
    return made, both_batches(world)


def test_uniform_negatives_are_what_they_were_before_samplers() -> None:
    made, (users, _) = objective(negatives=6)
    table, items = made.model.item_table, users.members
    rng = np.random.default_rng(0)
    drawn = np.unique(rng.integers(len(table), size=6))
    column = np.searchsorted(drawn, items).clip(max=len(drawn) - 1)
    column = np.where(drawn[column] == items, column, -1)
    before = softmax_loss(
        table[items],
        table[items],
        table[drawn],
        torch.from_numpy(column),
        offset=float(np.log(10 / len(drawn))),
    )
    candidates, columns, offset = made._item_candidates(
        items, table[items], made.config.negatives, made.sampler
    )
    after = softmax_loss(table[items], table[items], candidates, columns, offset=offset)
    assert torch.equal(torch.from_numpy(column), columns)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert made.rng.random() == rng.random()
    assert isinstance(made.sampler, Uniform)


@pytest.mark.parametrize("spec", [*SPECS, "batch", "hard:3", "mixture:1*uniform+1*batch"])
def test_every_sampler_trains_a_step(spec: str) -> None:
    made, (users, items) = objective(negatives=6, sampler=spec)
    losses = made.step(users, items, remake_users=False)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    grad = made.model.item_table.grad
    assert grad is not None
    assert torch.isfinite(grad).all()


def test_the_live_table_is_searched_exactly_and_as_it_is_now() -> None:
    states, table, _ = vectors()
    parameter = torch.nn.Parameter(table.clone())
    side = LiveTable(lambda: parameter)
    with torch.no_grad():
        parameter.neg_()
    ids, scores = side.search(states.numpy(), 5)
    expected = np.sort((states @ -table.T).numpy(), axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis((states @ -table.T).numpy(), ids, 1), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss.sampler=popularty:0.75", "did you mean popularity:0.75"),
        ("loss.sampler=hard:0", "sampler 'hard:0'"),
        ("loss.sampler=batch", "set loss.negatives"),
        ("loss.unmet_negatives=true", "set loss.own_negatives"),
        ("loss.own_negatives=2 loss.trust=1", "set own_negatives or trust to 0"),
    ],
)
def test_a_sampler_that_cannot_work_is_refused_when_the_recipe_is_read(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe(None, setting.split())
    assert "\n" not in str(error.value)


def test_recipes_and_models_from_before_samplers_are_uniform(tmp_path: Path) -> None:
    recipe = tmp_path / "old.toml"
    recipe.write_text("[loss]\nnegatives = 1024\n", encoding="utf-8")
    assert load_recipe(recipe).loss.sampler == "uniform"
    again = validate(
        Recipe, with_overrides({}, ["loss.sampler=popularity:1", "loss.negatives=5"]), source="x"
    )
    assert again.loss.sampler == "popularity:1"


UNMET = {"own_negatives": 2, "unmet_negatives": True}


@pytest.mark.parametrize("kind", ["softmax", "bce", "gbce", "bpr"])
@pytest.mark.parametrize("shared", [{"negatives": 0}, {"negatives": 6}, {"own_negatives": 2}, UNMET])
def test_every_kind_of_loss_learns(kind: str, shared: dict[str, int]) -> None:
    made, (users, items) = objective(kind=kind, per_positive=4.0, **shared)
    optimizer, found = torch.optim.Adam(made.model.parameters(), lr=0.02), []
    for _ in range(25):
        optimizer.zero_grad()
        losses = made.step(users, items, remake_users=False)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        found.append(float(losses["next_item"].detach()))
    assert np.mean(found[-5:]) < 0.8 * found[0]
