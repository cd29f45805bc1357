"""Training: learns, stops early, survives kill -9 with the same losses, refuses NaN."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_worlds import ONE_SIDED

from duality.data.importing import import_events
from duality.errors import ConfigError, InputError, TrainingError
from duality.model.folder import ModelFolder
from duality.workflows.recipe import load_recipe
from duality.workflows.train import train

SMALL = [
    "model.dim=16",
    "model.user_encoder.hidden=16",
    "model.item_encoder.hidden=16",
    "train.rows=200",
    "train.warmup_steps=2",
]

# The epoch's own numbers, before anything is chosen after training.
PLAIN = ["choose.generated_share=false", "choose.popularity=false", "choose.activity=false"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, log_folder: Path) -> Path:
    path = tmp_path_factory.mktemp("training") / "data"
    import_events(log_folder, path)
    return path


def losses(model: Path) -> list[dict[str, float]]:
    lines = (model / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_losses_fall_and_the_folder_is_complete(data: Path, tmp_path: Path) -> None:
    document = train(data, tmp_path / "m", load_recipe(None, [*SMALL, "train.epochs=12", "train.patience=0"]))
    history = losses(tmp_path / "m")
    assert len(history) == document["epochs"] == 12
    assert set(history[0]) == {"next_item", "users_compete"}
    assert set(history[2]) == set(history[0]) | {"next_user", "items_compete", "cycle_item", "cycle_user"}
    # The user cycle's target is F itself, which moves.
    for name in set(history[-1]) - {"cycle_user"}:
        first = next(line[name] for line in history if name in line)
        assert history[-1][name] < first, name
    assert {p.name for p in (tmp_path / "m").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "metrics.json",
        "README.md",
    }
    assert not (tmp_path / "m/checkpoint").exists()
    assert ModelFolder.open(tmp_path / "m").load().item_table.shape == (60, 16)


@pytest.mark.parametrize("two_sided", [True, False])
def test_resume_after_kill_gives_the_losses_of_an_uninterrupted_run(
    data: Path, tmp_path: Path, two_sided: bool
) -> None:
    settings = [*SMALL, *(() if two_sided else ONE_SIDED), "train.epochs=6", "train.patience=0"]
    train(data, tmp_path / "whole", load_recipe(None, settings))
    code = (
        "import sys, time; from pathlib import Path\n"
        "import duality.training.loop as loop\n"
        "from duality.workflows.recipe import load_recipe; from duality.workflows.train import train\n"
        "save = loop.Trainer._save\n"
        "loop.Trainer._save = lambda self: (save(self), time.sleep(1.0 if self.state.epoch == 3 else 0))\n"
        "train(Path(sys.argv[1]), Path(sys.argv[2]), load_recipe(None, sys.argv[3:]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(data), str(tmp_path / "cut"), *settings])
    checkpoint = tmp_path / "cut/checkpoint/state.json"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if checkpoint.exists() and json.loads(checkpoint.read_text())["epoch"] == 3:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut/config.json").exists()
    # As large as the log, and nothing writes them for one side: each epoch would store zeros.
    assert bool(load_file(tmp_path / "cut/checkpoint/banks.safetensors")) is two_sided
    train(data, tmp_path / "cut", load_recipe(None, settings), resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    same = [ModelFolder.open(tmp_path / name).fingerprint for name in ("cut", "whole")]
    assert same[0] == same[1]


def test_resume_refuses_other_settings_and_nothing_at_all(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        train(data, tmp_path / "none", load_recipe(None, SMALL), resume=True)
    with pytest.raises(TrainingError):
        train(data, tmp_path / "m", load_recipe(None, [*SMALL, "train.epochs=3", "train.learning_rate=1e30"]))
    assert not (tmp_path / "m/config.json").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from duality.model.objective import Objective

    step, calls = Objective.step, []

    def poisoned(self: Objective, *args: object, **options: object) -> dict:
        calls.append(1)
        values = step(self, *args, **options)  # type: ignore[arg-type]
        return {k: v * float("nan") for k, v in values.items()} if len(calls) > 10 else values

    monkeypatch.setattr(Objective, "step", poisoned)
    with pytest.raises(TrainingError, match=r"epoch \d+, step \d+: loss next_item.* is not finite"):
        train(data, tmp_path / "m", load_recipe(None, [*SMALL, "train.epochs=9"]))
    assert json.loads((tmp_path / "m/checkpoint/state.json").read_text())["epoch"] >= 1
    monkeypatch.undo()
    with pytest.raises(InputError, match="other settings"):
        train(data, tmp_path / "m", load_recipe(None, [*SMALL, "train.epochs=3"]), resume=True)
    done = train(data, tmp_path / "m", load_recipe(None, [*SMALL, "train.epochs=9"]), resume=True)
    assert done["epochs"] >= 2


def test_early_stopping_keeps_the_best_epoch(data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        None, [*SMALL, *PLAIN, "train.epochs=40", "train.patience=2", "train.learning_rate=0.05"]
    )
    document = train(data, tmp_path / "m", recipe)
    assert document["epochs"] < 40
    assert document["epochs"] - document["best_epoch"] == 2
    metrics = json.loads((tmp_path / "m/metrics.json").read_text())
    values = [line["validation"]["user_to_item.ndcg@10"] for line in metrics["history"]]
    assert values.index(max(values)) + 1 == document["best_epoch"]
    assert document["validation"]["user_to_item.ndcg@10"] == pytest.approx(max(values), abs=1e-6)


def test_unknown_settings_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"train.epoch: unknown key \(did you mean epochs"):
        load_recipe(None, ["train.epoch=3"])
    with pytest.raises(ConfigError, match=r"section.key=value"):
        load_recipe(None, ["train.epochs"])
    with pytest.raises(ConfigError, match=r"train.epochs: .*integer"):
        load_recipe(None, ["train.epochs=many"])
