"""The model folder: weights, configuration and the ids its rows stand for.

config.json          shape, settings, data fingerprint, split, metrics, what attributes it knows
model.safetensors    weights
items.ids.*          external id of each row of the item table
users.ids.*          the same for users, if the model knows attributes of theirs
metrics.json         validation of the best epoch
log.jsonl            one line per epoch
README.md            card: data, protocol, numbers
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from duality.artifacts import atomic_file, checksum, read_json, write_json
from duality.config import validate
from duality.data.coding import Coded, Vocabulary
from duality.data.describing import Described
from duality.data.ids import Ids
from duality.errors import DamageError, InputError
from duality.model.attributes import codes_in
from duality.model.texts import TextModel
from duality.model.two_sided import ModelConfig, TwoSided

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 3
USER_CODES = "user_attributes"
# After the rows that items share, if they do.
ITEM_CODES = tuple(f"parametrizations.item_table.{place}.attributes" for place in (0, 1))


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
        tensors = load_file(weights)
        model = TwoSided(
            self.config["num_items"],
            validate(ModelConfig, self.config["model"], source=str(self.path)),
            users=codes_in(tensors, USER_CODES),
            items=next(filter(None, (codes_in(tensors, prefix) for prefix in ITEM_CODES)), None),
            events=self._vocabulary("events"),
        )
        model.load_state_dict(tensors)
        return model.eval()

    def codes(self, side: str, table: pa.Table, described: Described | None = None) -> Coded | None:
        """Codes of everybody in a table of users or items, by the vocabulary of training; None if it has none.

        Args:
            described: of the side, if it has been, so that the same texts are not read again.

        Raises:
            InputError: a text is new, and the text model is gone or another.
        """
        known = self._vocabulary(side)
        if known is None:
            return None
        read = known.text_model and TextModel(Path(self.config["model"]["text_model"]), known.text_model)
        return known.codes(table, Ids.open(self.path, side), embed=read or None, known=described)

    def _vocabulary(self, side: str) -> Vocabulary | None:
        known = self.config.get("vocabulary", {}).get(side)
        return Vocabulary.from_json(known) if known else None


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
    sides = ("items", "users") if config.get("vocabulary", {}).get("users") else ("items",)
    for source in (file for side in sides for file in ids_from.glob(f"{side}.ids.*")):
        with atomic_file(folder / source.name) as temporary:
            shutil.copyfile(source, temporary)
    digest = checksum(weights)
    document = {
        "format": FORMAT,
        "fingerprint": digest[:16],
        "weights_sha256": digest,
        "num_items": model.num_items,
        "dim": model.dim,
        "model": model.config.model_dump(),
        **config,
    }
    write_json(folder / "config.json", document)
    return ModelFolder(folder, document)
