"""Attributes as vectors: what an item's vector is made of beside its own row, and who a history belongs to.

An item is its own row of the table plus the vectors of its attributes, so that one nobody has met yet is not unknown.
A history's rows know its owner: F those of the user, G those of the item. The attribute `id` is a vector of the
owner's own. A row may know more of its own event as well: what the log's other columns say. Owners that training did
not know have nothing to add, and training leaves a share of them out, so that the encoders can do without.

Texts and vectors made elsewhere enter by a linear map that is trained; the text model is not. With items made of
their texts and `llama` as the user encoder this is the two-level scheme of HLLM (Chen et al. 2024) over a text model at rest.

Shapes: N rows of a side, C codes, V values, W values of a described row, P packed rows, D dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from duality.data.coding import Coded, Vocabulary
from duality.data.dataset import Dataset
from duality.data.describing import Described
from duality.encoders.base import Layout


class AttributeVectors(nn.Module):
    """Sum over columns of the mean vector of a row's values: all zero at the start."""

    indptr: Tensor
    code: Tensor
    weight: Tensor

    def __init__(self, coded: Coded, dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(coded.size, dim))
        for name in ("indptr", "code", "weight"):
            self.register_buffer(name, torch.from_numpy(getattr(coded, name)))
        self.described = None if coded.described is None else DescribedVectors(coded.described, dim)

    def forward(self) -> Tensor:
        """Of every row, float [N, D]."""
        bags = self._bags(self.code, self.weight, self.indptr[:-1])
        return bags if self.described is None else bags + self.described()

    def of(self, rows: Tensor) -> Tensor:
        """Of rows int64 [n], float [n, D]; 0 for rows that are not known."""
        known = torch.nonzero((rows >= 0) & (rows < len(self.indptr) - 1)).squeeze(1)
        start = self.indptr[rows[known]]
        lengths = self.indptr[rows[known] + 1] - start
        first = lengths.cumsum(0) - lengths
        inside = torch.arange(int(lengths.sum()), device=rows.device) - first.repeat_interleave(lengths)
        place = start.repeat_interleave(lengths) + inside
        bags = self._bags(self.code[place], self.weight[place], first)
        bags = bags if self.described is None else bags + self.described(rows[known])
        return bags.new_zeros(len(rows), bags.shape[1]).index_copy(0, known, bags)

    def _bags(self, code: Tensor, weight: Tensor, first: Tensor) -> Tensor:
        if not len(code):
            return self.vectors.new_zeros(len(first), self.vectors.shape[1])
        return functional.embedding_bag(
            code, self.vectors, first, mode="sum", per_sample_weights=weight.to(self.vectors.dtype)
        )

    def grow(self, coded: Coded) -> None:
        """Know the rows of a larger side; values stay those of training."""
        for name in ("indptr", "code", "weight"):
            setattr(self, name, torch.from_numpy(getattr(coded, name)).to(self.vectors.device))
        if self.described is not None and coded.described is not None:
            self.described.grow(coded.described)


class DescribedVectors(nn.Module):
    """What texts and vectors say of a side's rows, by a linear map that starts at zero.

    Parts are centred and have length 1: text models give all texts one large common direction, which says nothing.
    """

    values: Tensor
    widths: Tensor
    keys: Tensor
    centre: Tensor
    read: Tensor

    def __init__(self, described: Described, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(described.vectors.shape[1], dim, bias=False)
        nn.init.zeros_(self.map.weight)
        self.register_buffer("widths", torch.tensor(described.widths))
        values = torch.from_numpy(described.vectors)
        there = self._there(values)
        self.register_buffer("centre", (values * there).sum(0) / there.sum(0).clamp(min=1))
        for name in ("values", "keys", "read"):
            self.register_buffer(name, torch.empty(0), persistent=name != "read")
        self.grow(described)

    def grow(self, described: Described) -> None:
        """Know the rows of a larger side; the centre stays that of training."""
        device = self.map.weight.device
        self.values = torch.from_numpy(described.vectors).to(device)
        self.keys = torch.from_numpy(described.keys).to(device)
        self.settle()

    def settle(self) -> None:
        """Make what the map reads of what is known, float [N, W]."""
        parts = ((self.values - self.centre) * self._there(self.values)).split(self.widths.tolist(), 1)
        self.read = torch.cat([functional.normalize(part, dim=1) for part in parts], 1)

    def _there(self, values: Tensor) -> Tensor:
        """1 where a row has a part, 0 where it lacks it: float [N, W]."""
        parts = values.split(self.widths.tolist(), 1)
        return torch.cat([part.any(1, keepdim=True).expand_as(part) for part in parts], 1).to(values.dtype)

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """Of rows int64 [n], or of all: float [n, D]."""
        found: Tensor = self.map(self.read if rows is None else self.read[rows])
        return found

    def known(self) -> Described:
        """What is known, for those who describe more."""
        return Described(self.values.cpu().numpy(), tuple(self.widths.tolist()), self.keys.cpu().numpy())


class Composed(nn.Module):
    """An item table float [I, D] with what attributes add to its rows; a parametrization of the table."""

    def __init__(self, attributes: AttributeVectors) -> None:
        super().__init__()
        self.attributes = attributes

    def forward(self, table: Tensor) -> Tensor:
        added: Tensor = self.attributes()
        return table + functional.pad(added, (0, 0, 0, len(table) - len(added)))

    def of(self, rows: Tensor, items: Tensor) -> Tensor:
        """The same of items int64 [N] alone, whose rows are float [N, D]."""
        return rows + self.attributes.of(items)


class OwnerVectors(nn.Module):
    """What a history's rows know of its owner.

    Args:
        dim: D.
        dropout: share of the histories that train without.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.map = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.map.weight)

    def forward(self, rows: Tensor, layout: Layout | None, attributes: AttributeVectors) -> Tensor:
        """Rows float [P, D] with the owners' vectors; those of a layout without owners stay as they are."""
        if layout is None or layout.owners is None or not len(rows):
            return rows
        owners = torch.from_numpy(np.asarray(layout.owners)[layout.offsets[:-1]].astype(np.int64))
        vectors = attributes.of(owners.to(rows.device))
        if self.training and self.dropout:
            vectors = vectors * (torch.rand(len(vectors), 1, device=rows.device) >= self.dropout)
        lengths = torch.from_numpy(layout.lengths).to(rows.device)
        return rows + self.map(vectors).to(rows.dtype).repeat_interleave(lengths, 0)


class EventContext(nn.Module):
    """What rows know of their events: a vector for each value, zero at the start."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(size, dim))

    def forward(self, rows: Tensor, layout: Layout | None) -> Tensor:
        """Rows float [P, D] with their events' vectors; those of a layout without context stay as they are."""
        if layout is None or layout.context is None:
            return rows
        codes = torch.from_numpy(layout.context.astype(np.int64)).to(rows.device)
        added = self.vectors[codes.clamp(min=0)] * (codes >= 0)[..., None]
        return rows + added.sum(1).to(rows.dtype)


class EventCodes:
    """Codes of a dataset's events by a model's vocabulary, made once a dataset."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._of: tuple[str, np.ndarray | None] = ("", None)

    def of(self, dataset: Dataset) -> np.ndarray | None:
        """int32 [E, C]; None where the log has no other columns."""
        if self._of[0] != dataset.fingerprint:
            table = dataset.event_attributes()
            self._of = dataset.fingerprint, None if table is None else self.vocabulary.matrix(table)
        return self._of[1]


def codes_in(weights: dict[str, Tensor], prefix: str) -> Coded | None:
    """The codes among a model's stored tensors, if it has any."""
    if f"{prefix}.code" not in weights:
        return None
    indptr, code, weight = (weights[f"{prefix}.{name}"].numpy() for name in ("indptr", "code", "weight"))
    described = None
    if f"{prefix}.described.values" in weights:
        values, widths, keys = (weights[f"{prefix}.described.{n}"] for n in ("values", "widths", "keys"))
        described = Described(values.numpy(), tuple(widths.tolist()), keys.numpy())
    return Coded(indptr, code, weight, len(weights[f"{prefix}.vectors"]), described)
