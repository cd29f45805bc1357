"""Matrix products in float32: oneDNN's on processors for which MKL, that torch takes, keeps older kernels.

A core of an AMD EPYC (Zen 5) makes 50 to 100 GFLOP/s with MKL and 120 to 240 with oneDNN, which torch has as well, behind
an operator without gradients. Elsewhere than on AMD's processors with AVX-512, in other types and for few rows torch's own
product is taken.

Shapes: P rows, S numbers that are summed over, M outputs.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# oneDNN writes a kernel for every new shape, as long as a product of 2,000 x 64 x 64 takes. Batches are never equally
# long: all but a remainder goes a multiple of so many rows at once, which comes again.
ROWS = 256
FEWEST = 1_024  # S x M


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, rows: Tensor) -> Tensor:
        return linear(rows, self.weight, self.bias)


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`functional.linear`, with gradients of any order.

    Args:
        rows: float [P, S], or any other number of dimensions.
        weight: float [M, S].
        bias: float [M].
    """
    if len(rows) < ROWS or not _faster(rows, weight):
        return functional.linear(rows, weight, bias)
    made: Tensor = _Linear.apply(rows, weight, bias)
    return made


@torch.no_grad()
def product(
    rows: Tensor, weight: Tensor, added: Tensor | None = None, *, room: Tensor | None = None
) -> Tensor:
    """`functional.linear` without gradients, for shapes that come again.

    Args:
        rows: float [P, S]; transposed views cost nothing, here and of `weight`.
        weight: float [M, S].
        added: float [M].
        room: float [P, M], memory that may be taken for it.
    """
    if _faster(rows, weight):
        bias = None if added is None else added.contiguous()
        made: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return made
    if added is None:
        return torch.mm(rows, weight.T, out=room)
    return torch.addmm(added, rows, weight.T, out=room)


@torch.no_grad()
def add_product(total: Tensor, rows: Tensor, weight: Tensor) -> None:
    """Add rows float [P, S] times weight^T, float [M, S], to `total`, float [P, M]."""
    if _faster(rows, weight):
        total += product(rows, weight)
    else:
        total.addmm_(rows, weight.T)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _in_blocks(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows, weight), (asked,) = ctx.saved_tensors, grads
        first, second, third = ctx.needs_input_grad
        if torch.is_grad_enabled():  # gradients of gradients need products that have some
            to_rows, to_weight = asked @ weight, asked.T @ rows
        else:
            to_rows = _in_blocks(asked, weight.T) if first else None
            to_weight = _summed(asked, rows) if second else None
        return to_rows, to_weight, asked.sum(0) if third else None


def _in_blocks(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    whole = len(rows) // ROWS * ROWS
    made = product(rows[:whole], weight, bias)
    if whole == len(rows):
        return made
    return torch.cat((made, functional.linear(rows[whole:], weight, bias)))


def _summed(asked: Tensor, rows: Tensor) -> Tensor:
    """asked^T rows, float [M, S], of P rows each."""
    whole = len(rows) // ROWS * ROWS
    made = product(rows[:whole].T, asked[:whole].T).T
    return made if whole == len(rows) else made.addmm_(asked[whole:].T, rows[whole:])


def _faster(rows: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's product of these is faster, and can be had."""
    if not _older_kernels() or torch.is_autocast_enabled("cpu") or weight.numel() < FEWEST:
        return False
    return _plain(rows) and _plain(weight)


def _plain(values: Tensor) -> bool:
    """A float32 matrix on a processor without gaps, or the transposed view of one: of others oneDNN is slow."""
    single = values.ndim == 2 and values.dtype == torch.float32 and values.device.type == "cpu"
    return single and (values.is_contiguous() or values.T.is_contiguous())


@cache
def _older_kernels() -> bool:
    """Whether this is an AMD processor with AVX-512, and torch has oneDNN."""
    capable = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
    try:
        maker = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return capable and "AuthenticAMD" in maker and hasattr(torch.ops.mkldnn, "_linear_pointwise")
