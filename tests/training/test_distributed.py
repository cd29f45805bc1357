"""Two processes train as one does with the same batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_worlds import ONE_SIDED, SMALL

from duality.encoders.base import Layout
from duality.training.distributed import ROW, RUN, shares

SETTINGS = [
    *SMALL,
    "model.user_encoder.dropout=0.0",
    "model.item_encoder.dropout=0.0",
    "train.epochs=4",
    "loss.negatives=20",
]


def trained(out: Path, world: Path, processes: int, settings: list[str]) -> subprocess.CompletedProcess[str]:
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "29517"]
    command = [*start, "-m", "duality.cli.main", "train", "--json", "--data", str(world / "datasets/default")]
    command += ["--out", str(out), *(part for setting in settings for part in ("--set", setting))]
    here = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=here, check=False, timeout=300)


@pytest.fixture(scope="module")
def both(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Model folders of one process and of two."""
    root = tmp_path_factory.mktemp("processes")
    for number in (1, 2):
        done = trained(root / str(number), world, number, SETTINGS)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["epochs"] == 4  # one document, whoever printed it
    return root / "1", root / "2"


def test_losses_are_those_of_one_process(both: tuple[Path, Path]) -> None:
    one, two = ([json.loads(line) for line in (folder / "log.jsonl").open()] for folder in both)
    assert len(one) == len(two) == 4
    assert set(one[-1]["loss"]) >= {"next_item", "users_compete", "next_user", "items_compete", "cycle_item"}
    for mine, theirs in zip(one, two, strict=True):
        assert mine["loss"].keys() == theirs["loss"].keys()
        for name, value in mine["loss"].items():
            assert theirs["loss"][name] == pytest.approx(value, abs=2e-4), name
        assert theirs["validation"] == pytest.approx(mine["validation"], abs=0.05)


def test_weights_are_those_of_one_process(both: tuple[Path, Path]) -> None:
    one, two = (load_file(folder / "model.safetensors") for folder in both)
    assert one.keys() == two.keys()
    for name, value in one.items():
        if value.dtype == np.float32 and value.ndim > 1:
            np.testing.assert_allclose(two[name], value, atol=5e-3, err_msg=name)


def test_an_encoder_that_cannot_be_divided_is_refused(world: Path, tmp_path: Path) -> None:
    done = trained(tmp_path / "model", world, 2, [*SETTINGS, "model.user_encoder.name=bert4rec"])
    assert done.returncode != 0
    assert "several processes train causal encoders" in done.stderr
    assert "Traceback" not in done.stderr.split("torch/distributed")[0]


def test_sequences_are_divided_by_what_they_cost_and_never_cut() -> None:
    assert shares(Layout(np.full(8, 4)), 2).tolist() == [0, 4, 8]
    assert shares(Layout(np.array([1, 1, 2, 3, 5, 20])), 2).tolist() == [0, 4, 6]
    assert shares(Layout(np.array([3])), 2).tolist() == [0, 1, 1]  # the second has none
    lengths = np.sort(np.random.default_rng(0).integers(1, 400, size=3000))
    cost = lengths * (ROW + lengths)
    _, run, count = np.unique(lengths, return_inverse=True, return_counts=True)
    cost = cost + RUN / count[run]
    parts = [cost[first:last].sum() for first, last in pairwise(shares(Layout(lengths), 4))]
    assert sum(parts) == pytest.approx(cost.sum())
    assert max(parts) - min(parts) <= 2 * cost.max()


@pytest.mark.parametrize("loss", ["loss.own_negatives=3", "loss.negatives=20"])
def test_the_user_side_alone_asks_for_its_own_share_only(world: Path, tmp_path: Path, loss: str) -> None:
    settings = [*SETTINGS, *ONE_SIDED, loss, "loss.kind=bce", "train.epochs=2"]
    for number in (1, 2):
        done = trained(tmp_path / str(number), world, number, settings)
        assert done.returncode == 0, done.stderr
    one, two = (
        [json.loads(line)["loss"] for line in (tmp_path / number / "log.jsonl").open()]
        for number in ("1", "2")
    )
    assert [losses.keys() for losses in one] == [{"next_item"}] * 2
    for mine, theirs in zip(one, two, strict=True):
        assert theirs["next_item"] == pytest.approx(mine["next_item"], abs=2e-4)
    means = [load_file(tmp_path / n / "model.safetensors")["population_mean"] for n in ("1", "2")]
    np.testing.assert_allclose(means[1], means[0], atol=1e-4)
