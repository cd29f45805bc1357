"""From a model to what is stored: embedding files, and the pair of indexes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duality.data.dataset import Dataset
from duality.embeddings import STORED_EXTRA, last_moment, write_embeddings
from duality.embeddings import embed as embed_both
from duality.errors import InputError
from duality.index import stores
from duality.index.spec import load_spec
from duality.model.folder import ModelFolder
from duality.model.two_sided import TwoSided
from duality.runtime import num_threads, say
from duality.workflows.attributes import codes_for
from duality.workflows.train import dataset_of


def embed(model: Path, out: Path, data: Path | None = None) -> dict[str, Any]:
    """Write `users.parquet` and `items.parquet` under `out`: `users`, `items`, `dim` (stored form)."""
    torch.set_num_threads(num_threads())
    folder = ModelFolder.open(model)
    dataset = dataset_of(folder, data)
    users, items, _ = embed_both(model_for(folder, dataset), dataset)
    write_embeddings(users, out / "users.parquet", folder.fingerprint)
    write_embeddings(items, out / "items.parquet", folder.fingerprint)
    return {"users": len(users), "items": len(items), "dim": folder.config["dim"] + STORED_EXTRA}


def build_index(
    model: Path,
    out: Path,
    spec: str | Path | None,
    data: Path | None,
    *,
    device: str | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Embed a dataset and build both indexes.

    Args:
        model: model folder.
        out: index folder; an older index there is replaced in one step.
        spec: name or file of an index recipe; None takes "exact".
        data: dataset folder; None takes the one the model recorded.
        device: "cuda" builds the structures there.
        store: address of a Milvus server that keeps the vectors; None keeps them in `out`.

    Returns:
        `users`, `items`, `dim`, `kind`, `version`.

    Raises:
        InputError: the dataset's items are not those of the model.
    """
    torch.set_num_threads(num_threads())
    options = load_spec(spec)
    folder = ModelFolder.open(model)
    dataset = dataset_of(folder, data)
    users, items, weights = embed_both(model_for(folder, dataset), dataset)
    extra = {
        "model": {"path": os.path.relpath(folder.path, out), "fingerprint": folder.fingerprint},
        "generated_weights": np.round(weights.astype(np.float64), 6).tolist(),
        "moment": last_moment(dataset),
        "dataset": {"path": os.path.relpath(dataset.path, out), "fingerprint": dataset.fingerprint},
    }
    document = stores.build(out, users, items, spec=options, manifest_extra=extra, device=device, store=store)
    generated = sum(items.column("generated").to_pylist())
    if generated:
        say(f"{generated:,} items had no training event: their vectors were generated from their users")
    return document


def model_for(folder: ModelFolder, dataset: Dataset) -> TwoSided:
    """The model of a folder with a row for every item of a dataset; later ones are known by their users alone.

    Raises:
        InputError: the dataset's items do not begin with those of the model.
    """
    model, known = folder.load(), len(folder.item_ids)
    same = folder.config["data"]["fingerprint"] == dataset.fingerprint
    first = range(min(known, dataset.num_items))
    if not same and list(folder.item_ids.ids(range(known))) != list(dataset.item_ids.ids(first)):
        raise InputError(
            f"{dataset.path} has other items than the model {folder.path} was trained on: "
            "train on this dataset, or pass the one the model knows with --data"
        )
    if not same:
        model.grow(dataset.num_items, **codes_for(folder, dataset, model))
    return model
