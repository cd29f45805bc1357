"""Logs without time, and the split that cuts in time, from import to evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_worlds import SMALL, synthetic_log

import duality
from duality.data.dataset import Dataset
from duality.errors import InputError
from duality.model.folder import ModelFolder


@pytest.fixture
def untimed(tmp_path: Path) -> Path:
    log = synthetic_log()
    columns = {"user_id": log["user_id"], "item_id": log["item_id"], "position": pa.array(range(len(log)))}
    duality.import_events(pa.table(columns), tmp_path / "d")
    return tmp_path


def test_a_log_without_time_trains_with_items_as_sets(
    untimed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    duality.train(untimed / "d", untimed / "m", settings=SMALL)
    assert "treats its users as a set" in capsys.readouterr().err
    config = ModelFolder.open(untimed / "m").config
    assert config["model"]["item_encoder"]["positions"] == "none"
    assert config["model"]["user_encoder"]["positions"] == "rotary"
    report = duality.evaluate(untimed / "m", baselines=True)
    assert not any("recent" in name for part in report.values() for name in part["baselines"])


def test_protocols_that_need_time_refuse_a_log_without(untimed: Path) -> None:
    with pytest.raises(InputError, match="needs times"):
        duality.train(untimed / "d", untimed / "m", settings=[*SMALL, "split.name=temporal"])
    assert not (untimed / "m").exists()
    duality.train(untimed / "d", untimed / "m", settings=[*SMALL, "train.epochs=1"])
    with pytest.raises(InputError, match="needs times"):
        duality.evaluate(untimed / "m", protocol="temporal")


def test_the_temporal_split_trains_and_evaluates(world: Path, tmp_path: Path) -> None:
    data = world / "datasets/default"
    duality.train(data, tmp_path / "m", settings=[*SMALL, "split.name=temporal"])
    report = duality.evaluate(tmp_path / "m", protocol="temporal", baselines=True)
    part = report["user-to-item"]
    assert part["queries"] > 0
    assert any("recent" in name for name in part["baselines"])
    with pytest.raises(InputError, match="trained for temporal"):
        duality.evaluate(tmp_path / "m", protocol="leave-one-out")
    dataset, config = Dataset.open(data), ModelFolder.open(tmp_path / "m").config
    latest = np.quantile(dataset.event_time, 0.8, method="lower")
    assert (np.asarray(dataset.event_time) < latest).sum() == config["data"]["training_events"]
