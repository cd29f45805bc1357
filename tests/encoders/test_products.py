"""Products by oneDNN and by torch's own are those of float64, with their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from duality.encoders import products
from duality.encoders.products import ROWS, Linear, add_product, linear, product


@pytest.fixture(params=["oneDNN", "torch"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways, whatever processor this is."""
    one_dnn = request.param == "oneDNN"
    if one_dnn and not (
        torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        pytest.skip("torch has no oneDNN here")
    monkeypatch.setattr(products, "_older_kernels", lambda: one_dnn)
    return one_dnn


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("count", [0, 1, ROWS - 1, ROWS, 3 * ROWS + 7])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_map_and_its_gradients(count: int, bias: bool) -> None:
    torch.manual_seed(count)
    exact = [normal(count, 48), normal(64, 48), normal(64)]
    single = [one.float() for one in exact]
    asked, expected, found = normal(count, 64), [], []
    for values, results, map_ in ((exact, expected, functional.linear), (single, found, linear)):
        leaves = [value.requires_grad_() for value in (values if bias else values[:2])]
        made = map_(*leaves)
        results += [made.detach(), *torch.autograd.grad(made, leaves, asked.to(made.dtype))]
    for one, other in zip(found, expected, strict=True):
        close(one, other)


def test_rows_and_gradients_with_gaps_between_them() -> None:
    torch.manual_seed(0)
    wide, weight = normal(2 * ROWS, 2, 48), normal(64, 48)
    rows = wide.float()[:, 1].requires_grad_()
    made = linear(rows, weight.float())
    asked = normal(2 * ROWS, 2, 64)
    (found,) = torch.autograd.grad(made, rows, asked.float()[:, 0])
    close(made.detach(), wide[:, 1] @ weight.T)
    close(found, asked[:, 0] @ weight)


def test_gradients_of_gradients() -> None:
    torch.manual_seed(1)
    exact, found = [normal(ROWS + 3, 48), normal(64, 48)], []
    for map_, values in ((functional.linear, exact), (linear, [one.float() for one in exact])):
        rows, weight = (value.requires_grad_() for value in values)
        (first,) = torch.autograd.grad(map_(rows, weight).square().sum(), rows, create_graph=True)
        found.append(torch.autograd.grad(first.sin().sum(), (rows, weight)))
    for one, other in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("turned", [True, False])
def test_products_of_views_into_memory_that_is_there(turned: bool) -> None:
    torch.manual_seed(2)
    rows, weight, added, total = normal(300, 40), normal(500, 40), normal(1).expand(500), normal(300, 500)
    one, other = (values.float().T.contiguous().T if turned else values.float() for values in (rows, weight))
    close(product(one, other, added.float(), room=torch.empty(300, 500)), rows @ weight.T + added)
    close(product(one, other, room=torch.empty(300, 500)), rows @ weight.T)
    sums = total.float()
    add_product(sums, one, other)
    close(sums, total + rows @ weight.T)


def test_which_products_are_one_dnns(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def noted(rows: Tensor, weight: Tensor, *rest: object) -> Tensor:
        asked.append(tuple(rows.shape))
        return functional.linear(rows, weight, rest[0])

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", noted, raising=False)
    layer = Linear(64, 64)
    for rows in (torch.randn(2 * ROWS + 5, 64), torch.randn(ROWS - 1, 64), torch.randn(ROWS, 2, 64)):
        layer(rows)
    layer.double()(torch.randn(ROWS, 64, dtype=torch.float64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.float()(torch.randn(ROWS, 64)).dtype == torch.bfloat16
    assert asked == ([(2 * ROWS, 64)] if kernels else [])
