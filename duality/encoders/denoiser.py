"""Rec-Denoiser: SASRec that learns which places should not look at which.

Source: Chen et al., "Denoising self-attentive sequential recommendation" (2022), 3.2 to 3.4; no code was published.
Each layer has a gate Z for every pair of slots, open with probability sigmoid(phi); softmax weights are
multiplied by Z and not made to sum to one again. A gate has no gradient: phi learns from the difference that two
opposite draws make to the loss (augment-REINFORCE-merge, 3.3), and its penalty is how many gates are open. A
second penalty keeps a layer's output from depending steeply on its input: the squared Frobenius norm of the
layer's Jacobian, estimated with one random vector (3.4). In use a gate is open where that is likelier than not.

Both penalties are means here (over gates, over rows), as our losses are; in the paper they are sums.

Shapes: P packed rows, D dimensions, H heads, K = D / H, N slots, B layers.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from duality.encoders.attention import Parts, back, in_blocks, in_runs
from duality.encoders.base import Layout, Run
from duality.encoders.blocks import SoftmaxBlock
from duality.encoders.dropout import dropout
from duality.encoders.sasrec import SASRec, SASRecConfig

OPEN = 2.0  # phi at the start: seven gates in eight are open


class RecDenoiserConfig(SASRecConfig):
    """Shape of Rec-Denoiser, `name = "denoiser"`."""

    name: Literal["denoiser"] = "denoiser"  # type: ignore[assignment]
    max_length: int = 50
    open_penalty: float = 0.01  # beta, of the mean chance that a gate is open
    slope_penalty: float = 0.001  # gamma, of the squared Jacobian of a layer, per row


class RecDenoiser(SASRec):
    """float [P, dim] rows to float [P, dim] states."""

    noisy = True

    def __init__(self, dim: int, config: RecDenoiserConfig) -> None:
        super().__init__(dim, config)
        self.open_penalty, self.slope_penalty = config.open_penalty, config.slope_penalty
        # Entry (i, j) of a layer lets slot i look at slot j.
        self.phi = nn.Parameter(torch.full((config.num_blocks, config.max_length, config.max_length), OPEN))
        self.uniform: Tensor | None = None
        self.turned = False
        self.slopes: list[Tensor] = []

    def draw(self) -> None:
        """New gates for training."""
        self.uniform, self.slopes = torch.rand_like(self.phi), []
        self.turned = False

    def turn(self) -> None:
        """The opposite draw: u where there was 1 - u."""
        self.turned = True

    def penalty(self, difference: Tensor) -> Tensor:
        """A scalar with the gradient that phi wants, and both penalties.

        Args:
            difference: loss with the gates drawn minus loss with the opposite ones.
        """
        assert self.uniform is not None
        merged = (difference.detach() * (self.uniform - 0.5) * self.phi).sum()
        below = self.phi.new_ones(self.phi.shape[1:]).tril().bool()
        found = merged + self.open_penalty * self.phi[:, below].sigmoid().mean()
        if self.slopes:
            found = found + self.slope_penalty * torch.stack(self.slopes).sum()
        return found

    def gates(self) -> Tensor:
        """bool [B, N, N]: in training those of the draw, else the likelier ones."""
        if not self.training:
            return self.phi > 0
        if self.uniform is None:
            self.draw()
        assert self.uniform is not None
        if self.turned:
            return self.uniform < self.phi.sigmoid()
        return self.uniform > (-self.phi).sigmoid()

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        layout, gates = self.seen(layout), self.gates().detach()
        rows, _ = self.enter(rows, self.positions_of(layout, rows.device))
        measured = self.training and torch.is_grad_enabled() and self.slope_penalty > 0
        for number, block in enumerate(self.blocks):
            assert isinstance(block, SoftmaxBlock)
            made = self._layer(block, rows, layout, gates[number])
            if measured and not self.turned:
                self.slopes.append(_slope(rows, made))
            rows = made
        states: Tensor = self.norm(rows)
        return states

    def _layer(self, block: SoftmaxBlock, rows: Tensor, layout: Layout, gates: Tensor) -> Tensor:
        def attend(run: Run, parts: Parts) -> Tensor:
            return in_blocks(partial(self._gated, gates[-run[2] :, -run[2] :]), *parts)

        return block.finish(rows, in_runs(attend, *block.project(rows, None), layout))

    def _gated(self, gates: Tensor, query: Tensor, key: Tensor, value: Tensor, start: int) -> Tensor:
        """What `attention.in_blocks` wants: softmax weights times gates."""
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        weights = scores.masked_fill(back(query, key, start) < 0, -torch.inf).softmax(3)
        weights = weights * gates[start : start + query.shape[2], : key.shape[2]]
        if self.training:
            weights = dropout(weights, self.attention_dropout)
        return weights @ value


def _slope(rows: Tensor, made: Tensor) -> Tensor:
    """Squared Frobenius norm of d made / d rows, per row: one draw of an estimate without bias (Hutchinson)."""
    direction = torch.randn_like(made)
    (turned,) = torch.autograd.grad(made, rows, direction, create_graph=True)
    return turned.square().sum() / len(rows)
