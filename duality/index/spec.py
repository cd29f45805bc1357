"""What kind of search structure an index side uses, read from indexes/specs/*.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from duality.config import Config, read_toml, validate
from duality.errors import ConfigError, suggestion


class ListsSpec(Config):
    """Inverted lists: vectors are grouped around centroids and a search probes some groups."""

    nlist: int = Field(default=0, ge=0, le=1 << 20, description="number of lists; 0 chooses about 2 sqrt(n)")
    nprobe: int = Field(default=0, ge=0, description="lists probed per query; 0 measures it at the build")


class IvfSpec(ListsSpec):
    """Inverted lists of the vectors themselves: takes writes well."""


class IvfPqSpec(ListsSpec):
    """Inverted lists of product-quantized vectors: the smallest."""

    pieces: int = Field(default=0, ge=0, description="bytes per vector, a divisor of dim; 0 chooses dim / 2")
    rerank: int = Field(default=0, ge=0, le=1_000, description="vectors read per result; 0 measures it")


class Sq8Spec(ListsSpec):
    """Inverted lists with a byte per value: a quarter of the memory."""

    rerank: int = Field(default=0, ge=0, le=1_000, description="vectors read per result; 0 measures it")


class RabitqSpec(ListsSpec):
    """Inverted lists with a few bits per value: nothing to train, small."""

    bits: int = Field(default=4, ge=1, le=8, description="bits per value")
    rerank: int = Field(default=0, ge=0, le=1_000, description="vectors read per result; 0 measures it")


class HnswSpec(Config):
    """Navigable graph: for sides that seldom change."""

    m: int = Field(default=32, ge=4, le=128, description="links per vector")
    ef_construction: int = Field(default=200, ge=8, le=10_000, description="candidates while building")
    ef_search: int = Field(
        default=64,
        ge=8,
        le=100_000,
        description="candidates while searching; the build raises it if need be",
    )


class SearchSpec(Config):
    """A search setting that `duality index tune` measured; it goes before what the build chooses."""

    nprobe: int | None = Field(default=None, ge=1, description="lists probed per query")
    nlist: int | None = Field(default=None, ge=1, description="lists there were; with others, nprobe follows")
    ef_search: int | None = Field(default=None, ge=1, le=100_000, description="candidates in a graph")
    rerank: int | None = Field(default=None, ge=1, le=1_000, description="vectors read per result")
    k: int | None = Field(default=None, ge=1, description="results it was measured for; for more, it grows")


class IndexSpec(Config):
    """An index recipe; sections of kinds other than `kind` are ignored."""

    kind: Literal["exact", "ivf", "hnsw", "ivfpq", "sq8", "rabitq"] = "exact"
    ivf: IvfSpec = IvfSpec()
    hnsw: HnswSpec = HnswSpec()
    ivfpq: IvfPqSpec = IvfPqSpec()
    sq8: Sq8Spec = Sq8Spec()
    rabitq: RabitqSpec = RabitqSpec()
    search: SearchSpec = SearchSpec()

    def options(self) -> dict[str, Any]:
        """Plain values for `build_structure`: `kind`, the settings of that kind, `search` if any."""
        section = {} if self.kind == "exact" else getattr(self, self.kind).model_dump()
        search = self.search.model_dump(exclude_none=True)
        return {"kind": self.kind, **section, **({"search": search} if search else {})}


KINDS = ("exact", "ivf", "hnsw", "ivfpq", "sq8", "rabitq")


def spec_named(name: str) -> IndexSpec:
    """The built-in spec of a kind.

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
    if not str(spec).endswith(".toml"):
        return spec_named(str(spec))
    return validate(IndexSpec, read_toml(Path(spec)), source=str(spec))
