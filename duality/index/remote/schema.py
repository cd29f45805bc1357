"""What a collection looks like: fields, index settings, names.

id          primary key: the external id, bytes outside [A-Za-z0-9_.~-] written as %XX, so that an
            id can stand in an expression without any escaping
vector      float32 [D + 1]: the vector and sqrt(M^2 - |x|^2), which makes all of one length M;
            a query has 0 there, so the inner product is the true one
attributes  JSON {"a0": value, ...}, by slot; names and kinds are in the ledger
have        slots whose attribute is not null
part        a hash of the id, for reading everything in pages
crc         CRC-32 of the row
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from duality.errors import ConfigError, DataError
from duality.index.batches import MAX_ID_BYTES

# A server refuses results of more rows than this, and calls of more than 64 MB; smaller calls also
# make smaller half-written batches when it dies.
MAX_ROWS = 16_384
MAX_BYTES = 8_000_000
PARTS = 1 << 20
MAX_COLUMNS = 2_000
MAX_JSON_BYTES = 65_536
MAX_DIM = 32_767
MAX_EF = 32_768
# Candidates of a graph search where nobody measured how many it takes.
UNMEASURED_EF = 160
# Structures that the server is known to search by inner product on plain vectors. Others are not
# tried: a server may accept any name and fail only when it loads the collection.
INDEX_TYPES = {"exact": "FLAT", "ivf": "IVF_FLAT", "hnsw": "HNSW"}


@dataclass(frozen=True)
class Layout:
    """Fields and indexes of a collection of records with `dim` values, or of the ledger (dim 0)."""

    dim: int
    indexes: tuple[Mapping[str, Any], ...]

    def fields(self, types: Any) -> dict[str, dict[str, Any]]:
        """Arguments of pymilvus' `add_field` by field name; `types` is its DataType."""
        key = {"datatype": types.VARCHAR, "is_primary": True, "max_length": 3 * MAX_ID_BYTES}
        found = {
            "id": key,
            # Every collection must have a vector, so the ledger has a small one.
            "vector": {"datatype": types.FLOAT_VECTOR, "dim": self.dim + 1 if self.dim else 2},
            "attributes": {"datatype": types.JSON},
        }
        if self.dim:
            slots = {"element_type": types.INT64, "max_capacity": MAX_COLUMNS}
            found["have"] = {"datatype": types.ARRAY, **slots}
            found["part"] = {"datatype": types.INT64}
            found["crc"] = {"datatype": types.INT64}
        return found


def ledger_layout() -> Layout:
    """The collection that keeps counters."""
    return Layout(0, ({"field_name": "vector", "index_type": "FLAT", "metric_type": "IP"},))


def record_layout(dim: int, structure: Mapping[str, Any]) -> Layout:
    """A collection of one side.

    Raises:
        DataError: more values per vector than the server can hold.
    """
    if dim > MAX_DIM:
        raise DataError(f"vectors have {dim} values; a store holds at most {MAX_DIM:,}")
    vector = {"field_name": "vector", "metric_type": "IP", **structure}
    return Layout(dim, (vector, {"field_name": "part", "index_type": "INVERTED"}))


def structure_of(options: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """`index_type` and `params` for an index recipe and a number of rows.

    Raises:
        ConfigError: a kind that is not offered on a server.
    """
    kind = options["kind"]
    if kind not in INDEX_TYPES:
        raise ConfigError(f"kind {kind} is not offered on a store: give {', '.join(INDEX_TYPES)}")
    params: dict[str, int] = {}
    if kind == "ivf":
        params["nlist"] = options.get("nlist") or max(1, min(65_536, math.isqrt(4 * rows)))
    elif kind == "hnsw":
        params = {"M": options["m"], "efConstruction": options["ef_construction"]}
    return {"index_type": INDEX_TYPES[kind], "params": params}


def search_parameters(
    options: Mapping[str, Any], structure: Mapping[str, Any], limit: int, share: float
) -> dict[str, int]:
    """`params` of a search that returns `limit` rows of the `share` of all that match a filter.

    The fewer match, the more of the structure is looked through for as many candidates.
    """
    measured = options.get("search", {})
    match structure["index_type"]:
        case "IVF_FLAT":
            nlist = structure["params"]["nlist"]
            nprobe = measured.get("nprobe") or options.get("nprobe") or max(16, nlist // 6)
            return {"nprobe": min(nlist, math.ceil(nprobe / share))}
        case "HNSW":
            # Local builds raise the spec's floor by measuring; here nothing is measured.
            ef = measured.get("ef_search") or max(options["ef_search"], UNMEASURED_EF)
            return {"ef": min(MAX_EF, math.ceil(max(ef, limit) / share))}
        case _:
            return {}


def store_name(folder: str, suffix: str) -> str:
    """A name for the collections of an index: the folder's, as far as it may stand in one."""
    return f"duality_{re.sub(r'[^A-Za-z0-9]+', '_', folder).strip('_')[:60] or 'index'}_{suffix}"


def collection_name(name: str, generation: str, side: str) -> str:
    """The collection of one side of a generation."""
    return f"{name}_{generation}_{side}"


def alias_name(name: str, side: str) -> str:
    """What other programs call the current collection of a side."""
    return f"{name}_{side}"


def ledger_name(name: str) -> str:
    """The collection that keeps the counters of all generations."""
    return f"{name}_ledger"
