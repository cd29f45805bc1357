"""A Milvus server: connecting, and its failures as one clear line.

Reads:  the token from `$DUALITY_STORE_TOKEN`; it is never written anywhere.
Cost:   every call is one round trip, strongly consistent, and gives up after `timeout` seconds.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from duality.errors import DualityError, InputError, MissingExtraError
from duality.index.remote.schema import MAX_BYTES, MAX_ROWS, PARTS, Layout
from duality.runtime import say

TOKEN = "DUALITY_STORE_TOKEN"
TIMEOUT = 30.0
CONNECT_TIMEOUT = 10.0
# Building structures and loading them takes as long as it takes; the server is asked now and then.
LOAD_TIMEOUT = 6 * 3600.0
FLUSH_TIMEOUT = 300.0
_POLL = 0.05
# A server that restarts is waited for this long; pymilvus gives up at its first failed reconnection.
PATIENCE = 5.0
# Codes of errors: pymilvus could not connect; the server has not loaded, or has not got, a collection.
_NOT_CONNECTED = 2
_NOT_LOADED, _NOT_FOUND = 101, (4, 100)


def check_url(url: str) -> str:
    """A server's address, without a trailing slash.

    Raises:
        InputError: not http or https, without host, or with a user, password, query or fragment.
    """
    # What is shown holds nothing that may be a secret.
    shown = re.sub(r"//[^/]*@", "//", url).split("?")[0].split("#")[0]
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise InputError(f"store {shown}: give an address such as http://host:19530")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"store {shown}: no user or password in the address; set ${TOKEN} instead")
    if parts.query or parts.fragment or not re.fullmatch(r"/?\w*/?", parts.path, re.ASCII):
        raise InputError(f"store {shown}: after the port there may be a database name and nothing else")
    return url.rstrip("/")


class _SilentError(DualityError):
    """The server cannot be reached, or did not answer in time."""


class _UnloadedError(DualityError):
    """The collection is not in the server's memory; some servers forget that when they restart."""


class Store:
    """An open connection; methods may be called from several threads.

    Args:
        url: `http://host:port` or `https://host:port`, with `/database` if it is not the default one.
        timeout: seconds after which a call gives up.

    Raises:
        MissingExtraError: pymilvus is not installed.
        DualityError: nobody answers there.
    """

    def __init__(self, url: str, timeout: float = TIMEOUT) -> None:
        self.url, self.timeout = check_url(url), timeout
        try:
            from pymilvus import MilvusClient
        except ImportError:
            raise MissingExtraError("pymilvus", '"duality[milvus]"') from None
        # It logs every failure with a traceback; the same failure reaches the caller as an exception.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
        # A connection of one's own: a shared one would end for all when one of them closes.
        connect = {"uri": self.url, "token": os.environ.get(TOKEN, ""), "dedicated": True}
        self._client = self._guarded(MilvusClient, **connect, timeout=min(timeout, CONNECT_TIMEOUT))

    def close(self) -> None:
        """Hang up."""
        self._guarded(self._client.close)

    def _guarded(self, function: Any, **arguments: Any) -> Any:
        import grpc
        from pymilvus.exceptions import MilvusException

        try:
            return function(**arguments)
        except grpc.RpcError as error:
            raise _SilentError(f"the store {self.url} does not answer ({_name(error)})") from None
        except MilvusException as error:
            raise self._translated(error) from None

    def _patiently(self, function: Any, **arguments: Any) -> Any:
        """Call again while the server cannot be reached: every call may be made twice."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._guarded(function, **arguments)
            except _SilentError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL)

    def _translated(self, error: Any) -> DualityError:
        import grpc

        silent = isinstance(error.code, grpc.StatusCode) or error.code == _NOT_CONNECTED
        cause = error.__cause__ or error.__context__
        if silent or isinstance(cause, grpc.RpcError):
            reason = _name(cause) if isinstance(cause, grpc.RpcError) else "no connection"
            return _SilentError(f"the store {self.url} does not answer ({reason})")
        text = " ".join(str(error.message).split()) or type(error).__name__
        if error.code == _NOT_LOADED:
            return _UnloadedError(f"the store {self.url} has not loaded the index ({text[:300]})")
        if error.code in _NOT_FOUND:
            return DualityError(f"the store {self.url} has it no longer ({text[:300]}): open the index again")
        return DualityError(f"the store {self.url} refused: {text[:300]}")

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._patiently(getattr(self._client, method), timeout=self.timeout, **arguments)

    def collections(self) -> list[str]:
        """Names of all collections."""
        return list(self._call("list_collections"))

    def _read(self, method: str, name: str, **arguments: Any) -> Any:
        try:
            return self._call(method, collection_name=name, consistency_level="Strong", **arguments)
        except _UnloadedError:
            self.load(name)
            return self._call(method, collection_name=name, consistency_level="Strong", **arguments)

    def create(self, name: str, layout: Layout) -> None:
        """Make an empty collection, strongly consistent."""
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        for field, settings in layout.fields(_types()).items():
            schema.add_field(field, **settings)
        self._call("create_collection", collection_name=name, schema=schema, consistency_level="Strong")

    def serve(self, name: str, layout: Layout) -> None:
        """Write what came so far to disk, index it, and load the collection for searches."""
        self.flush(name)
        wanted = self._client.prepare_index_params()
        for index in layout.indexes:
            # pymilvus takes one level of `params` away, and milvus-lite reads them only when nested:
            # without this it built every graph and every list with settings of its own.
            wanted.add_index(**{**index, "params": {"params": index.get("params", {})}})
        self._call("create_index", collection_name=name, index_params=wanted, sync=False)
        for index in layout.indexes:
            self._confirm(name, index)
        self.load(name)

    def _confirm(self, name: str, index: Mapping[str, Any]) -> None:
        """Ask what was made: a server may take any name and any setting, and do something else."""
        field = index["field_name"]
        made = self._call("describe_index", collection_name=name, index_name=field) or {}
        if made.get("index_type") != index["index_type"]:
            found = made.get("index_type", "nothing")
            raise DualityError(
                f"the store {self.url} made {found} instead of {index['index_type']} in {name}"
            )
        held = {**made, **(made.get("params") or {})}
        for setting, value in index.get("params", {}).items():
            if str(held.get(setting)) != str(value):
                say(f"the store {self.url} does not confirm {setting} {value} of {name}: recall may differ")

    def load(self, name: str) -> None:
        """Have a collection in the server's memory, ready for reads."""
        self._call("load_collection", collection_name=name, _async=True)
        deadline, wait = time.monotonic() + LOAD_TIMEOUT, _POLL
        while self._call("get_load_state", collection_name=name)["state"].name != "Loaded":
            if time.monotonic() > deadline:
                raise DualityError(f"the store {self.url} has not loaded {name} in {LOAD_TIMEOUT:,.0f} s")
            time.sleep(wait)
            wait = min(2 * wait, 2.0)

    def drop(self, name: str) -> None:
        """Remove a collection and its rows."""
        self._call("drop_collection", collection_name=name)

    def point(self, alias: str, name: str) -> None:
        """Let an alias name this collection, whether it existed or not."""
        held = self._call("list_aliases", collection_name="").get("aliases", [])
        self._call("alter_alias" if alias in held else "create_alias", collection_name=name, alias=alias)

    def flush(self, name: str) -> None:
        """Write what came so far to disk."""
        self._patiently(self._client.flush, collection_name=name, timeout=max(self.timeout, FLUSH_TIMEOUT))

    def compact(self, name: str) -> None:
        """Ask the server to merge its segments and drop deleted rows; it does so when it likes."""
        self._call("compact", collection_name=name)

    def upsert(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows; one call, which the server applies whole."""
        self._call("upsert", collection_name=name, data=list(rows))

    def delete(self, name: str, condition: str) -> None:
        """Remove the rows that match."""
        self._call("delete", collection_name=name, filter=condition)

    def count(self, name: str, condition: str = "") -> int:
        """Live rows that match; counted, since the statistics lag behind."""
        found = self._query(name, condition, ["count(*)"])
        return int(found[0]["count(*)"])

    def fetch(
        self, name: str, condition: str, fields: Sequence[str], limit: int = MAX_ROWS
    ) -> list[dict[str, Any]]:
        """Rows that match, at most `limit`, in any order."""
        return self._query(name, condition, fields, limit=limit)

    def _query(self, name: str, condition: str, fields: Sequence[str], **more: Any) -> list[dict[str, Any]]:
        return list(self._read("query", name, filter=condition, output_fields=list(fields), **more))

    def scan(
        self, name: str, fields: Sequence[str], condition: str, row_bytes: int
    ) -> Iterator[list[dict[str, Any]]]:
        """Every row that matches, in blocks, in no order.

        Pages are ranges of the field `part`, a hash of the id, and a page that comes back full is
        halved: unlike paging by the last id seen, this does not depend on the order of results.

        Args:
            name: the collection.
            fields: what to read.
            condition: an expression that selects rows; never empty.
            row_bytes: about how large a row is.
        """
        per_page = max(1, min(MAX_ROWS // 2, MAX_BYTES // max(row_bytes, 1)))
        pages = -(-max(1, self.count(name, condition)) // per_page)
        edges = [PARTS * page // pages for page in range(pages + 1)]
        spans = list(pairwise(edges))[::-1]
        while spans:
            low, high = spans.pop()
            rows = self.fetch(name, f"part >= {low} and part < {high} and ({condition})", fields)
            if len(rows) < MAX_ROWS:
                yield rows
            elif high - low == 1:
                raise DualityError(f"the store {self.url}: too many rows in one part of {name}")
            else:
                spans += [((low + high) // 2, high), (low, (low + high) // 2)]

    def search(
        self, name: str, queries: Any, limit: int, condition: str, parameters: Mapping[str, Any]
    ) -> list[list[tuple[str, float]]]:
        """(stored id, inner product) of the nearest rows, best first, per query."""
        found = self._read(
            "search",
            name,
            data=queries,
            anns_field="vector",
            limit=limit,
            filter=condition,
            output_fields=["id"],
            search_params={"metric_type": "IP", "params": dict(parameters)},
        )
        return [[(hit["id"], hit["distance"]) for hit in hits] for hits in found]


def _types() -> Any:
    from pymilvus import DataType

    return DataType


def _name(error: Any) -> str:
    code = error.code() if callable(getattr(error, "code", None)) else None
    return code.name.lower().replace("_", " ") if code is not None else type(error).__name__
