"""Item tables made of shared rows: one by one as all at once, no two items alike, never made whole by a training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_worlds import both_batches, dataset, rivals
from small_worlds import SMALL, synthetic_items, synthetic_log

from duality.data.coding import Coded
from duality.data.importing import import_events
from duality.errors import ConfigError
from duality.model.attributes import Composed
from duality.model.bank import StateBank
from duality.model.folder import ModelFolder
from duality.model.loss_config import LossConfig
from duality.model.objective import Objective
from duality.model.shared_rows import SharedRows
from duality.model.two_sided import ModelConfig, TwoSided
from duality.workflows.build import build_index
from duality.workflows.index import Index
from duality.workflows.recipe import load_recipe
from duality.workflows.train import train

ITEMS, DIM = 10, 8
CODED = Coded(
    np.arange(ITEMS + 1), np.arange(ITEMS) % 3, np.ones(ITEMS, np.float32), 3
)  # one value each, of three
SHAPE: dict[str, Any] = {
    "dim": DIM,
    "user_encoder": {"num_blocks": 1, "hidden": 8, "dropout": 0},
    "item_encoder": {"num_blocks": 1, "hidden": 8, "dropout": 0},
}
KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "plain": ({}, False),
    "cosine": ({"score": "cosine"}, False),
    "attributes": ({}, True),
    "shared": ({"shared_rows": 4}, False),
    "shared, cosine, attributes": ({"shared_rows": 4, "score": "cosine"}, True),
}


def model_of(kind: str) -> TwoSided:
    torch.manual_seed(0)
    settings, with_attributes = KINDS[kind]
    coded = {"items": CODED} if with_attributes else {}
    made = TwoSided(ITEMS, ModelConfig.model_validate({**SHAPE, **settings}), **coded)
    if made.item_attributes is not None:
        made.item_attributes.vectors.data.normal_()
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_some_items_are_those_of_the_table_with_their_gradients(kind: str) -> None:
    model, items = model_of(kind), torch.tensor([3, 0, 3, 9])
    weights, found = torch.randn(4, DIM), []
    for rows in (model.item_rows(items), model.item_table[items]):
        model.zero_grad()
        (rows * weights).sum().backward()
        found.append((rows.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (one, slopes), (other, expected) = found
    torch.testing.assert_close(one, other)
    assert slopes.keys() == expected.keys()
    for name, slope in expected.items():
        torch.testing.assert_close(slopes[name], slope)


def test_a_hundred_thousand_items_of_a_thousand_rows_are_all_different_once_their_weights_are() -> None:
    torch.manual_seed(0)
    shared, rows = SharedRows(100_000, DIM), torch.randn(1_000, DIM).requires_grad_()
    shared(rows).sum().backward()
    assert rows.grad is not None
    used = rows.grad[:, 0] / 0.5**0.5  # how many items a row is of
    assert 100 < float(used.min()) < float(used.max()) < 300
    before = shared(rows).detach()
    assert len(np.unique(before.numpy().round(5), axis=0)) > 90_000  # pairs of rows that meet twice are few
    shared.weights.data += 0.1 * torch.randn_like(shared.weights)
    after = shared(rows).detach()
    assert len(np.unique(after.numpy().round(5), axis=0)) == 100_000
    variance = float(before.var())
    assert 0.8 < variance < 1.2  # as rows of their own would have


@pytest.mark.parametrize("kind", ["attributes", "shared", "shared, cosine, attributes"])
@pytest.mark.parametrize("loss", [{"negatives": 4}, {"kind": "bce", "own_negatives": 1, "negatives": 4}])
def test_a_step_with_drawn_negatives_never_makes_the_whole_table(
    kind: str, loss: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(*_: Any) -> torch.Tensor:
        raise AssertionError("the whole table was made")

    world, model = dataset(items=ITEMS), model_of(kind)
    two_sided = {} if "kind" not in loss else dict.fromkeys(ONE_SIDED, 0.0)
    banks = [StateBank(world.num_events, DIM) for _ in range(2)]
    made = Objective(
        model,
        LossConfig.model_validate({**loss, **two_sided}),
        *banks,
        np.random.default_rng(0),
        rivals=rivals(world),
    )
    monkeypatch.setattr("duality.model.objective.POOL", 4)
    monkeypatch.setattr("duality.model.own_negatives.FETCHED", 1)
    for part in (SharedRows, Composed):
        monkeypatch.setattr(part, "forward", whole)
    losses = made.step(*both_batches(world), remake_users=True)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with pytest.raises(AssertionError, match="whole table"):
        _ = model.item_table


ONE_SIDED = ("users_compete", "next_user", "items_compete", "cycle_item", "cycle_user")


@pytest.mark.parametrize("attributes", [False, True])
def test_a_log_is_trained_on_indexed_and_updated(attributes: bool, tmp_path: Path) -> None:
    import_events(synthetic_log(), tmp_path / "data", items=synthetic_items())
    settings = [*SMALL, "model.shared_rows=20", "loss.negatives=30", "train.epochs=8"]
    if attributes:
        settings.append('model.item_attributes=["genres"]')
    document = train(tmp_path / "data", tmp_path / "model", load_recipe(None, settings))
    by_chance = np.mean(1 / np.log2(1 + np.arange(1, 51)) * (np.arange(1, 51) <= 10))
    assert document["validation"]["user_to_item.ndcg@10"] > 1.3 * by_chance
    model = ModelFolder.open(tmp_path / "model").load()
    assert model.num_items == 60
    assert dict(model.named_parameters())["parametrizations.item_table.original"].shape == (20, model.dim)
    build_index(tmp_path / "model", tmp_path / "index", "exact", tmp_path / "data")
    events = synthetic_log().slice(0, 3).to_pydict() | {"item_id": ["new"] * 3}
    events["timestamp"] = [1_900_000_000 + n for n in range(3)]
    with Index.open(tmp_path / "index", "w") as index:
        import pyarrow as pa

        assert index.update(pa.table(events))["new_items"] == 1
        (record,), _ = index.items.get(["new"])
    assert record["attributes"]["generated"] is True


def test_items_that_training_never_saw_start_like_others_do() -> None:
    model = model_of("shared")
    before = model.item_table.detach()
    model.trained[3] = False
    model.settle()
    model.grow(ITEMS + 2)
    after, start = model.item_table.detach(), model.empty_item.detach()[:DIM]
    assert after.shape == (ITEMS + 2, DIM)
    for row in (3, ITEMS, ITEMS + 1):
        torch.testing.assert_close(after[row], start)
    seen = [row for row in range(ITEMS) if row != 3]
    torch.testing.assert_close(after[seen], before[seen])


def test_items_without_rows_cannot_share_any() -> None:
    with pytest.raises(ConfigError, match="shared_rows"):
        load_recipe(None, ["model.shared_rows=5", "model.own_rows=false", 'model.item_attributes=["genres"]'])
