"""Every encoder on both sides: it learns, and what it made can be indexed and asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_worlds import SMALL

from duality.encoders.registry import ENCODERS
from duality.workflows.build import build_index
from duality.workflows.query import answer
from duality.workflows.recipe import load_recipe
from duality.workflows.train import train

LIMITED = ("sasrec", "denoiser", "bert4rec", "hstu")


@pytest.mark.parametrize("name", list(ENCODERS))
def test_trained_indexed_and_asked(name: str, world: Path, tmp_path: Path) -> None:
    settings = [setting for setting in SMALL if "encoder" not in setting]
    for side in ("user", "item"):
        settings += [f"model.{side}_encoder.name={name}", f"model.{side}_encoder.dropout=0.0"]
        if name in LIMITED:
            settings.append(f"model.{side}_encoder.max_length=20")
    settings += ["train.epochs=12", "train.warmup_epochs=1", "train.patience=0"]
    data = world / "datasets/default"
    train(data, tmp_path / "model", load_recipe(None, settings))
    log = [json.loads(line) for line in (tmp_path / "model/log.jsonl").read_text().splitlines()]
    for term, epoch in (("next_item", 1), ("next_user", 2)):  # the item side starts with the second
        first, last = (log[number - 1]["loss"][term] for number in (epoch, 12))
        assert last < first - 0.05, term
    build_index(tmp_path / "model", tmp_path / "index", "exact", None)
    asked = ({"user": "u3"}, {"item": "i3"}, {"history": ["i1", "i5"]}, {"audience": ["u1", "u5", "u9"]})
    for question in asked:
        results = answer(tmp_path / "index", **question)["results"]
        scores = [row["score"] for row in results]
        assert len({row["id"] for row in results}) == 10
        assert np.isfinite(scores).all()
        assert scores == sorted(scores, reverse=True)
