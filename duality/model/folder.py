"""The model folder: weights, configuration and the ids its rows stand for.

config.json          shape, settings, data fingerprint, split, metrics
model.safetensors    weights
items.ids.*          external id of each row of the item table
metrics.json         validation of the best epoch
log.jsonl            one line per epoch
README.md            card: data, protocol, numbers
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from duality.artifacts import atomic_file, checksum, read_json, write_json
from duality.config import validate
from duality.data.ids import Ids
from duality.errors import DamageError, InputError
from duality.model.two_sided import ModelConfig, TwoSided

FORMAT = 3


@dataclass(frozen=True, eq=False)
class ModelFolder:
    """An opened model folder; weights are loaded by `load`."""

    path: Path
    config: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """Read the configuration only.

        Raises:
            InputError: no model there, or one of a newer format.
        """
        config = read_json(Path(path) / "config.json", what="model", make="duality train")
        if config.get("format") != FORMAT:
            raise InputError(f"{path}: model format {config.get('format')} is not {FORMAT}: train it again")
        return cls(Path(path), config)

    @property
    def fingerprint(self) -> str:
        """Identity of the weights."""
        return str(self.config["fingerprint"])

    @property
    def item_ids(self) -> Ids:
        return Ids.open(self.path, "items")

    def load(self) -> TwoSided:
        """The model in evaluation mode, on the CPU.

        Raises:
            DamageError: the weights do not match their checksum.
        """
        weights = self.path / "model.safetensors"
        if not weights.exists() or checksum(weights) != self.config["weights_sha256"]:
            raise DamageError(f"{weights} is missing or damaged: train again")
        model = TwoSided(
            self.config["num_items"], validate(ModelConfig, self.config["model"], source=str(self.path))
        )
        model.load_state_dict(load_file(weights))
        return model.eval()


def save_model(folder: Path, model: TwoSided, *, ids_from: Path, config: dict[str, Any]) -> ModelFolder:
    """Write weights, ids and configuration; `config.json` goes last and makes the model current.

    Args:
        folder: the model folder.
        model: its weights are stored.
        ids_from: the dataset folder whose item ids the table's rows stand for.
        config: everything else that `config.json` should hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    with atomic_file(weights) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, temporary)
    for source in ids_from.glob("items.ids.*"):
        with atomic_file(folder / source.name) as temporary:
            shutil.copyfile(source, temporary)
    digest = checksum(weights)
    document = {
        "format": FORMAT,
        "fingerprint": digest[:16],
        "weights_sha256": digest,
        "num_items": model.item_table.shape[0],
        "dim": model.dim,
        "model": model.config.model_dump(),
        **config,
    }
    write_json(folder / "config.json", document)
    return ModelFolder(folder, document)
