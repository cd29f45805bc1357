"""Attribute vectors against sums written out; owners of histories; rows that came after training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from duality.data.coding import Coded, Column, Vocabulary
from duality.encoders.base import Layout
from duality.model.attributes import AttributeVectors, Composed, OwnerVectors
from duality.model.two_sided import ModelConfig, TwoSided

CODED = Coded(
    np.array([0, 2, 2, 3, 6]),
    np.array([0, 3, 1, 2, 3, 4]),
    np.array([1.0, 0.5, 1.0, 0.25, 0.25, 0.5], np.float32),
    5,
)
DIM = 8


def vectors() -> AttributeVectors:
    torch.manual_seed(0)
    made = AttributeVectors(CODED, DIM)
    made.vectors.data.normal_()
    return made


def expected(made: AttributeVectors, row: int) -> torch.Tensor:
    total = torch.zeros(DIM)
    for place in range(CODED.indptr[row], CODED.indptr[row + 1]):
        total = total + float(CODED.weight[place]) * made.vectors[CODED.code[place]]
    return total


def test_rows_are_weighed_sums_of_their_values_and_unknown_rows_are_zero() -> None:
    made = vectors()
    whole = torch.stack([expected(made, row) for row in range(4)])
    torch.testing.assert_close(made(), whole)
    asked = torch.tensor([3, -1, 0, 1, 9, 3])
    known = torch.stack([whole[3], torch.zeros(DIM), whole[0], whole[1], torch.zeros(DIM), whole[3]])
    torch.testing.assert_close(made.of(asked), known)
    (made.of(asked) ** 2).sum().backward()
    ours = made.vectors.grad.clone()  # type: ignore[union-attr]
    slope = torch.autograd.grad((known**2).sum(), made.vectors)[0]
    torch.testing.assert_close(ours, slope)


def test_a_table_is_composed_and_later_rows_have_nothing_added_until_they_are_coded() -> None:
    made = vectors()
    table = torch.randn(6, DIM)
    composed = Composed(made)(table)
    torch.testing.assert_close(composed[:4], table[:4] + made())
    torch.testing.assert_close(composed[4:], table[4:])


def test_every_row_of_a_history_knows_its_owner() -> None:
    made, owner = vectors(), OwnerVectors(DIM, 0.5).eval()
    owner.map.weight.data.normal_()
    rows = torch.randn(5, DIM)
    layout = Layout(np.array([2, 3]), owners=np.array([3, 3, 0, 0, 0], np.int32))
    found = owner(rows, layout, made) - rows
    mapped = [owner.map(expected(made, row)) for row in (3, 0)]
    torch.testing.assert_close(found, torch.stack([mapped[0]] * 2 + [mapped[1]] * 3))
    torch.testing.assert_close(owner(rows, Layout(np.array([2, 3])), made), rows)


def test_training_leaves_whole_histories_without_their_owner() -> None:
    made, owner = vectors(), OwnerVectors(DIM, 0.5).train()
    count, length = 400, 3
    layout = Layout(np.full(count, length), owners=np.zeros(count * length, np.int32))
    added = owner(torch.zeros(count * length, DIM), layout, made).view(count, length, DIM)
    with_owner = (added != 0).all(2)
    assert (with_owner.all(1) | ~with_owner.any(1)).all()
    assert 0.4 < with_owner[:, 0].float().mean() < 0.6


@pytest.fixture
def model() -> TwoSided:
    torch.manual_seed(0)
    config = ModelConfig(dim=DIM, user_attributes=("a",), item_attributes=("b",))
    made = TwoSided(4, config, users=CODED, items=CODED)
    assert made.item_attributes is not None
    made.item_attributes.vectors.data.normal_()
    return made.eval()


def test_states_depend_on_the_owner_and_not_where_there_is_none(model: TwoSided) -> None:
    assert model.user_attributes is not None
    model.user_attributes.vectors.data.normal_()
    items, lengths = model.item_table[[0, 1, 2]], np.array([3])
    alone = model.user_states(items, Layout(lengths))
    nobody = model.user_states(items, Layout(lengths, owners=np.full(3, 99)))
    somebody = model.user_states(items, Layout(lengths, owners=np.full(3, 3)))
    torch.testing.assert_close(alone, nobody)
    assert (somebody - alone).abs().max() > 0.01
    users = torch.randn(3, DIM)
    model.item_head.weight.data.normal_()
    bare, known = (model.item_states(users, Layout(lengths, owners=np.full(3, row))) for row in (1, 3))
    torch.testing.assert_close(bare, model.item_states(users, Layout(lengths)))
    assert (known - bare).abs().max() > 0.01


def test_rows_know_their_own_event_and_no_later_one() -> None:
    torch.manual_seed(0)
    rated = Vocabulary((Column("rating", values=("1", "5")), Column("device", values=("tv",))))
    model = TwoSided(4, ModelConfig(dim=DIM, event_attributes=("rating", "device")), events=rated).eval()
    for context in (model.user_context, model.item_context):
        assert context is not None
        context.vectors.data.normal_()
    model.item_head.weight.data.normal_()
    items, lengths = model.item_table[[0, 1, 2]], np.array([3])
    context = np.array([[0, -1], [1, 2], [-1, -1]], np.int32)
    changed = context.copy()
    changed[1] = [0, -1]
    for states, rows in ((model.user_states, items), (model.item_states, torch.randn(3, DIM))):
        one, other = (states(rows, Layout(lengths, context=codes)) for codes in (context, changed))
        torch.testing.assert_close(one[0], other[0])
        assert (one[1:] - other[1:]).abs().max(1).values.min() > 1e-3
        unknown = states(rows, Layout(lengths, context=np.full((3, 2), -1)))
        torch.testing.assert_close(unknown, states(rows, Layout(lengths)))
    added = model.user_rows(items, Layout(lengths, context=context)) - model.user_rows(items, Layout(lengths))
    vectors = model.user_context.vectors  # type: ignore[union-attr]
    torch.testing.assert_close(added, torch.stack((vectors[0], vectors[1] + vectors[2], torch.zeros(DIM))))


def test_an_item_after_training_is_the_mean_row_and_its_own_attributes(model: TwoSided) -> None:
    later = Coded(
        np.append(CODED.indptr, 8), np.append(CODED.code, [0, 4]), np.append(CODED.weight, [1, 1]), 5
    )
    own = model.parametrizations.item_table.original.detach()  # type: ignore[union-attr, index]
    mean = own[:4].mean(0)
    before = model.item_table.detach().clone()
    model.grow(5, items=later)
    vectors = model.item_attributes.vectors.detach()  # type: ignore[union-attr]
    torch.testing.assert_close(model.item_table[:4], before)
    torch.testing.assert_close(model.item_table[4].detach(), mean + vectors[0] + vectors[4])
    assert not model.trained[4]


def test_settling_gives_items_without_events_the_mean_row(model: TwoSided) -> None:
    model.trained[2] = False
    own = model.parametrizations.item_table.original  # type: ignore[union-attr]
    mean = own.detach()[[0, 1, 3]].mean(0)  # type: ignore[index]
    model.settle()
    torch.testing.assert_close(own.detach()[2], mean)  # type: ignore[index]
