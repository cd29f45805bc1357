"""The study of scaling: nothing that is asked was trained on, what is asked is the model's own loss, the law is found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_worlds import synthetic_log

from duality.data.dataset import Dataset
from duality.data.histories import user_histories
from duality.data.importing import import_events
from duality.encoders.base import Layout
from duality.model.two_sided import ModelConfig, TwoSided

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import scaling


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("scaling") / "data"
    import_events(synthetic_log(users=200, items=80), folder)
    return Dataset.open(folder)


def test_samples_are_nested_and_what_is_asked_is_newer_than_what_trains(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "EPOCHS", {8: 1, 4: 1, 2: 1})
    monkeypatch.setattr(scaling, "LEAST", 10)
    log = scaling.Log(dataset)
    small, middle, large = (set(log.samples[share].tolist()) for share in (8, 4, 2))
    assert set() < small < middle < large
    assert (log.train.astype(int) + log.validation + log.test == 1).all()
    place = np.arange(dataset.num_events)
    for user in small:
        mine = dataset.event_user == user
        assert place[mine & log.train].max() < place[mine & log.test].min()
    assert set(dataset.event_user[log.of(log.test, 8)].tolist()) == small


@pytest.mark.parametrize("encoder", [{"name": "transformer"}, {"name": "sasrec", "max_length": 6}])
def test_nats_are_those_of_every_history_cut_before_its_target(
    dataset: Dataset, encoder: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    shape = {"num_blocks": 1, "num_heads": 2, **encoder}
    model = TwoSided(dataset.num_items, ModelConfig.model_validate({"dim": 8, "user_encoder": shape})).eval()
    everything = user_histories(dataset, np.ones(dataset.num_events, bool))
    targets = np.flatnonzero(dataset.event_user < 5)[::3]
    found = scaling.asked(model, dataset, everything, targets)
    total = 0.0
    for target in targets.tolist():
        before = np.arange(dataset.user_indptr[dataset.event_user[target]], target)
        state = model.empty_user
        if len(before):
            items = torch.from_numpy(dataset.event_item[before].astype(np.int64))
            state = model.user_states(
                model.item_table[items], Layout(np.array([len(items)])), at=np.array([len(items) - 1])
            )[0]
        total -= float((model.item_table @ state).log_softmax(0)[int(dataset.event_item[target])].detach())
    assert found["targets"] == len(targets)
    assert found["nats"] == pytest.approx(total / len(targets), rel=1e-5)
    assert 0 <= found["ndcg@10"] <= 1


def test_the_law_that_made_the_runs_is_found() -> None:
    runs = [
        {
            "encoder_parameters": size,
            "events": events,
            "nats": 5.0 + 1.5 * (size / 1e4) ** -0.5 + 2.0 * (events / 1e4) ** -0.25,
        }
        for size in (1e4, 4e4, 16e4)
        for events in (1e4, 1e5, 1e6)
    ]
    assert scaling.law(runs) == (
        "nats = 5.00 + 1.500 (N / 10^4)^-0.50 + 2.000 (events / 10^4)^-0.25, R2 1.000, 9 runs"
    )
