"""Index recipes: the files that come with the project, names, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from structure_worlds import clusters

from duality.errors import ConfigError
from duality.index.spec import KINDS, IndexSpec, load_spec, spec_named
from duality.index.structures.build import build_structure

SPECS = sorted((Path(__file__).parents[2] / "indexes" / "specs").glob("*.toml"))


def test_there_is_a_file_for_every_kind():
    assert [path.stem for path in SPECS] == sorted(KINDS)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_file_says_what_its_kind_does_by_default(path):
    assert load_spec(path) == spec_named(path.stem)
    assert "Measured" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_options_build_that_kind(kind):
    structure = build_structure(spec_named(kind).options(), np.arange(500), clusters(500, dim=10))
    assert structure.kind == kind
    assert structure.settings["kind"] == kind


def test_a_tuned_setting_travels_with_the_spec(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('kind = "ivf"\n[search]\nnprobe = 3\nnlist = 40\n')
    assert load_spec(path).options() == {
        "kind": "ivf", "nlist": 0, "nprobe": 0, "search": {"nprobe": 3, "nlist": 40},
    }  # fmt: skip
    assert "search" not in spec_named("ivf").options()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind = "ivff"', "kind"),
        ('kind = "ivf"\n[ivf]\nnprob = 3', "did you mean nprobe"),
        ('kind = "rabitq"\n[rabitq]\nbits = 9', "rabitq.bits"),
        ('kind = "hnsw"\n[search]\nef_search = 0', "search.ef_search"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_spec(path)


def test_names_and_none():
    assert load_spec(None) == IndexSpec()
    assert load_spec(spec_named("sq8")).kind == "sq8"
    with pytest.raises(ConfigError, match="did you mean ivfpq"):
        load_spec("ivfqp")
    with pytest.raises(ConfigError, match="no such file"):
        load_spec("nowhere.toml")
