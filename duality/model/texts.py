"""Texts as vectors, by a Hugging Face text model in a folder: the extra `text`. Nothing is downloaded or trained.

A sentence encoder's rows are averaged over the text; of a language model, which reads from left to right, the last row
is taken, as HLLM does (Chen et al. 2024, 3.1; their prompt and learned token belong to a model that is trained along).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duality.artifacts import checksum, fingerprint
from duality.errors import InputError, MissingExtraError
from duality.runtime import progress

LONGEST = 256  # tokens of a text; what follows is left out
BATCH = 64  # texts read at once


class TextModel:
    """A text model on the CPU or a GPU, opened when the first text is read.

    Args:
        folder: with config.json, model.safetensors (or parts of it) and tokenizer.json.
        expected: its fingerprint, if it has to be the one that a model was trained with.

    Raises:
        InputError: no such folder.
    """

    def __init__(self, folder: Path, expected: str = "") -> None:
        self.folder, self.expected = folder, expected
        if not expected and not (folder / "config.json").exists():
            raise InputError(f"model.text_model: no text model in {folder} (there is no config.json)")

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the weights and their configuration.

        Raises:
            InputError: no weights as safetensors; other formats can hold programs and are not read.
        """
        weights = sorted(self.folder.glob("*.safetensors"))
        if not weights or not (self.folder / "config.json").exists():
            raise InputError(f"{self.folder}: a text model needs config.json and its weights as .safetensors")
        return fingerprint(*(checksum(file) for file in [self.folder / "config.json", *weights]))

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Float32 [texts, width].

        Raises:
            InputError: the folder holds another model than training had.
            MissingExtraError: the extra `text` is not installed.
        """
        if self.expected and self.fingerprint != self.expected:
            raise InputError(f"{self.folder} is not the text model that this model was trained with")
        tokenizer, model = self._opened
        order = np.argsort([len(text) for text in texts], kind="stable")  # little padding
        found: list[Tensor] = []
        with progress(len(texts), "reading texts", unit="texts") as bar, torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                some = [texts[row] for row in order[start : start + BATCH]]
                tokens = tokenizer(
                    some, padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
                ).to(model.device)
                rows = model(**tokens).last_hidden_state.float()
                found.append(_pooled(rows, tokens["attention_mask"], last=self._reads_on).cpu())
                bar.advance(len(some))
        made = np.empty((len(texts), found[0].shape[1]), np.float32)
        made[order] = torch.cat(found).numpy()
        return made

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        try:
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils.logging import disable_progress_bar
        except ImportError:
            raise MissingExtraError("transformers", "'duality[text]'") from None
        disable_progress_bar()
        given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, **given)
            model = AutoModel.from_pretrained(self.folder, use_safetensors=True, **given)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{self.folder} is no text model: {str(error).splitlines()[0]}") from None
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return tokenizer, model.to(device).eval()

    @property
    def _reads_on(self) -> bool:
        config = self._opened[1].config
        written = [str(name) for name in getattr(config, "architectures", None) or ()]
        return any(name.endswith("ForCausalLM") for name in written)

    @property
    def _longest(self) -> int:
        return min(LONGEST, getattr(self._opened[1].config, "max_position_embeddings", LONGEST))


def _pooled(rows: Tensor, mask: Tensor, *, last: bool) -> Tensor:
    """One row a text, float [n, width], of float [n, L, width] and int64 [n, L]."""
    if last:
        place = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)
        return rows[torch.arange(len(rows), device=rows.device), place]
    weight = mask[..., None].to(rows.dtype)
    return (rows * weight).sum(1) / weight.sum(1)
