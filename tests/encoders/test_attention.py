"""Packed attention against one sequence at a time: states, gradients, with weights dropped and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from duality.encoders import attention, dense_attention, groups
from duality.encoders.attention import packed_attention
from duality.encoders.base import Layout
from duality.encoders.groups import LONG, PADDED, Group, groups_of

LENGTHS = np.array([1, 1, 3, 3, 3, 7, 20])


def rows(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    total = int(LENGTHS.sum())
    shapes = ((total, 2, 2, 4), (total, 2, 4))
    first, second = (torch.randn(*s, generator=generator, dtype=dtype).requires_grad_() for s in shapes)
    return first, second


def oracle(query_key: torch.Tensor, value: torch.Tensor, causal: bool) -> torch.Tensor:
    pieces = []
    for qk, v in zip(query_key.split(LENGTHS.tolist()), value.split(LENGTHS.tolist()), strict=True):
        q, k = qk.permute(1, 2, 0, 3).unbind()
        mixed = functional.scaled_dot_product_attention(q, k, v.transpose(0, 1), is_causal=causal)
        pieces.append(mixed.transpose(0, 1))
    return torch.cat(pieces)


@pytest.mark.parametrize("causal", [True, False])
def test_states_and_gradients_are_those_of_torch(causal: bool) -> None:
    inputs, layout = rows(), Layout(LENGTHS)
    found, expected = packed_attention(*inputs, layout, causal=causal), oracle(*inputs, causal)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("at_once", [512, 5])
def test_gradients_with_dropped_weights_are_those_of_what_was_drawn(
    at_once: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "AT_ONCE", at_once)
    monkeypatch.setattr(groups, "BLOCK", 6)
    inputs, layout = rows(), Layout(LENGTHS)

    def attend(query_key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)  # the same draw for every difference quotient
        return packed_attention(query_key, value, layout, causal=causal, share=0.3)

    assert torch.autograd.gradcheck(attend, inputs)
    assert not torch.allclose(attend(*inputs), packed_attention(*inputs, layout, causal=causal))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
def test_stored_weights_with_nothing_dropped_are_those_of_torch(
    causal: bool, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "BLOCK", 6)
    inputs, layout = [part[..., :heads, :].detach().requires_grad_() for part in rows()], Layout(LENGTHS)
    calls = groups_of(layout) if causal else [Group(*run) for run in layout.runs]
    assert len(calls) == (1 if causal else 4)
    found = dense_attention.DenseAttention.apply(*inputs, calls, causal, 0.0)
    expected = oracle(*inputs, causal)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_groups_hold_every_row_once_in_order_and_pad_little() -> None:
    lengths = np.sort(np.random.default_rng(0).integers(1, 150, size=300))
    lengths = np.append(lengths, [200] * 20)
    layout = Layout(lengths)
    found, place = groups_of(layout), 0
    for group in found:
        assert group.first == layout.offsets[place]
        members = lengths[place : place + group.count]
        assert group.length == members.max()
        if group.real is None:
            assert (members == group.length).all()
        else:
            padded = np.zeros((group.count, group.length), bool)
            padded.reshape(-1)[group.real.numpy()] = True
            assert (padded == (np.arange(group.length) < members[:, None])).all()
            calls = len(np.unique(members))
            assert group.count * group.length - members.sum() <= PADDED * (calls - 1)
        place += group.count
    assert place == len(lengths)
    assert len(found) < len(layout.runs) / 2
    assert found[-1].real is None
    assert found[-1].count * found[-1].length >= LONG
