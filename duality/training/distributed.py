"""Training with several processes, started by `torchrun`: each encodes a share of every batch.

All processes hold the model, the banks and the whole batch, and draw the same negatives. Sequences are divided
by what they cost, states go round where a loss reads everybody's, and gradients are added up before the step, so that
all take the same one: that of one process with the same batch. Only the first writes files and validates.

Cost per step: one sum of all parameters' gradients; for two sides, or where users compete, two all-gathers of states
and their gradients.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from duality.encoders.base import Layout
from duality.model.ranks import Alone, Encode

# What a row costs besides attention, and what a run of equally long sequences does besides its rows, in rows that a row
# attends to: measured on a processor with 50 and 64 dimensions, 300 to 550 and 7,000 to 18,000.
ROW, RUN = 400, 12_000


class Ranks(Alone):
    """This process among those of the default group."""

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._sizes: list[int] = []

    def encode(self, encode: Encode, rows: Tensor, layout: Layout, empty: Tensor) -> tuple[Tensor, slice]:
        """As `Alone.encode`."""
        cuts = shares(layout, self.world)
        first, last = cuts[self.rank : self.rank + 2]
        own = slice(int(layout.offsets[first]), int(layout.offsets[last]))
        if last > first:
            states = encode(rows[own], layout.part(first, last))
        else:
            # Even without sequences this process must be there when gradients are added up.
            states = rows.new_zeros(0, len(empty), requires_grad=True)
        self._sizes = np.diff(layout.offsets[cuts]).tolist()
        return states, own

    def everybody(self, own: Tensor) -> Tensor:
        """As `Alone.everybody`; gradients of the states are added up over the processes."""
        states: Tensor = _Gathered.apply(own, self._sizes, self.rank)
        return states

    def gather(self, own: Tensor) -> Tensor:
        """As `Alone.gather`, of the rows that the last `encode` divided."""
        return _gathered(own, self._sizes)

    def total(self, own: Tensor) -> Tensor:
        """As `Alone.total`."""
        everybody = own.detach().clone()
        dist.all_reduce(everybody)
        return everybody

    def add_gradients(self, parameters: list[Parameter]) -> None:
        """As `Alone.add_gradients`."""
        flags = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        wanted = [p for p, flag in zip(parameters, flags.tolist(), strict=True) if flag]
        if not wanted:
            return
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
        flat = torch.cat([part.reshape(-1) for part in parts])
        dist.all_reduce(flat)
        for parameter, part in zip(wanted, flat.split([p.numel() for p in wanted]), strict=True):
            parameter.grad = part.view_as(parameter)

    def add(self, values: dict[str, float], device: str) -> dict[str, float]:
        """As `Alone.add`."""
        total = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return dict(zip(sorted(values), total.tolist(), strict=True))

    def first_says(self, make: Callable[[], Any], device: str) -> Any:
        """As `Alone.first_says`."""
        made = json.dumps(make()).encode() if self.rank == 0 else b""
        size = torch.tensor([len(made)], device=device)
        dist.broadcast(size, 0)
        text = torch.zeros(int(size), dtype=torch.uint8, device=device)
        if self.rank == 0:
            text = torch.frombuffer(bytearray(made), dtype=torch.uint8).to(device)
        dist.broadcast(text, 0)
        return json.loads(text.cpu().numpy().tobytes())


@contextmanager
def processes(device: str) -> Iterator[Alone]:
    """This process among those that `torchrun` started, or alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Alone()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Ranks()
        dist.barrier()  # without it processes have been seen to abort at the exit
    finally:
        dist.destroy_process_group()


def shares(layout: Layout, world: int) -> np.ndarray:
    """int64 [world + 1]: process r encodes sequences cuts[r] to cuts[r + 1], which cost about as much as the others'."""
    count = np.array([count for _, count, _ in layout.runs])
    each = layout.lengths * (ROW + layout.lengths) + np.repeat(RUN / count, count)
    cost = np.concatenate(([0], np.cumsum(each)))
    wanted = np.arange(1, world) * cost[-1] / world
    after = np.searchsorted(cost, wanted)
    inner = np.where(wanted - cost[after - 1] < cost[after] - wanted, after - 1, after)
    return np.concatenate(([0], inner, [len(layout.lengths)]))


class _Gathered(torch.autograd.Function):
    """Everybody's states, float [P, W], from those of this process's own sequences."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        return _gathered(own, sizes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total.split(ctx.sizes)[ctx.rank], None, None


def _gathered(own: Tensor, sizes: list[int]) -> Tensor:
    room = own.new_zeros(max(sizes), *own.shape[1:])
    room[: len(own)] = own.detach()
    everybody = [torch.empty_like(room) for _ in sizes]
    dist.all_gather(everybody, room)
    return torch.cat([part[:size] for part, size in zip(everybody, sizes, strict=True)])
