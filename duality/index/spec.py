"""What kind of search structure an index side uses, read from indexes/specs/*.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from duality.config import Config, read_toml, validate
from duality.errors import ConfigError, suggestion


class IvfSpec(Config):
    """Inverted lists: vectors are grouped around centroids and a search probes some groups."""

    nlist: int = Field(default=0, ge=0, description="number of lists; 0 chooses about 4 sqrt(n)")
    nprobe: int = Field(default=0, ge=0, description="lists probed per query; 0 chooses a sixth, 8 at least")


class HnswSpec(Config):
    """Navigable graph: for sides that seldom change."""

    m: int = Field(default=32, ge=4, le=128, description="links per vector")
    ef_construction: int = Field(default=200, ge=8, description="candidates while building")
    ef_search: int = Field(default=160, ge=8, description="candidates while searching")


class IndexSpec(Config):
    """An index recipe; sections of kinds other than `kind` are ignored."""

    kind: Literal["exact", "hnsw", "ivf"] = "exact"
    ivf: IvfSpec = IvfSpec()
    hnsw: HnswSpec = HnswSpec()

    def options(self) -> dict[str, Any]:
        """Plain values for ann.py: `kind` and the settings of that kind."""
        section = {"exact": {}, "ivf": self.ivf.model_dump(), "hnsw": self.hnsw.model_dump()}[self.kind]
        return {"kind": self.kind, **section}


KINDS = ("exact", "hnsw", "ivf")


def spec_named(name: str) -> IndexSpec:
    """The built-in spec `exact`, `hnsw` or `ivf`.

    Raises:
        ConfigError: no such spec.
    """
    if name not in KINDS:
        raise ConfigError(
            f"no index spec '{name}'{suggestion(name, KINDS)}: give {', '.join(KINDS)} or a file"
        )
    return validate(IndexSpec, {"kind": name}, source=name)


def load_spec(spec: IndexSpec | str | Path | None) -> IndexSpec:
    """A spec by name, from a TOML file, as given, or `exact` for None.

    Raises:
        ConfigError: unknown name, missing file, unknown key or value out of range.
    """
    if spec is None:
        return IndexSpec()
    if isinstance(spec, IndexSpec):
        return spec
    if str(spec) in KINDS:
        return spec_named(str(spec))
    if not str(spec).endswith(".toml"):
        return spec_named(str(spec))
    return validate(IndexSpec, read_toml(Path(spec)), source=str(spec))
