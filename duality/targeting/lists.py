"""Files beside a campaign file: suppression lists, past contacts and outcomes.

Reads: Parquet, or CSV with a header; paths are relative to the campaign file. A list's users are its column `user`
       (or `user_id`, or its only column); contacts have `user`, `time` and, if they are told apart, `campaign`.

Shapes: N contacts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duality.artifacts import checksum
from duality.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

USER = ("user", "user_id", "id")


@dataclass(frozen=True, eq=False)
class Contacts:
    """Who was contacted when.

    Attributes:
        user: N ids.
        time: int64 [N], microseconds since 1970.
        campaign: N ids, or None where the file does not tell them apart.
    """

    user: list[str]
    time: np.ndarray
    campaign: list[str] | None


class Lists:
    """The files that a campaign file names, each read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._users: dict[str, set[str]] = {}
        self._checksums: dict[str, str] = {}

    def users(self, name: str) -> set[str]:
        """Ids of a suppression list.

        Raises:
            DataError: it cannot be read, or nobody can tell which column holds users.
        """
        if name not in self._users:
            table = self._table(name)
            self._users[name] = set(_texts(table, _user_column(table, name), name))
        return self._users[name]

    def contacts(self, name: str) -> Contacts:
        """Past contacts.

        Raises:
            DataError: it cannot be read, or lacks users or times.
        """
        table = self._table(name)
        if "time" not in table.column_names:
            raise DataError("contacts need a column `time`", file=name)
        campaign = _texts(table, "campaign", name) if "campaign" in table.column_names else None
        return Contacts(_texts(table, _user_column(table, name), name), _moments(table, name), campaign)

    def outcomes(self, name: str) -> list[tuple[str | None, str, float | None]]:
        """What users came to: campaign (None where the file does not tell them apart), user, value (None likewise).

        Raises:
            DataError: it cannot be read, or lacks users, or a value is no finite number.
        """
        import pyarrow as pa

        table = self._table(name)
        users = _texts(table, _user_column(table, name), name)
        campaigns: list[str | None] = [None] * len(users)
        values: list[float | None] = [None] * len(users)
        if "campaign" in table.column_names:
            campaigns = list(_texts(table, "campaign", name))
        if "value" in table.column_names:
            try:
                numbers = table["value"].cast(pa.float64()).to_numpy()
            except pa.ArrowInvalid:
                raise DataError("not a number", file=name, column="value") from None
            wrong = np.flatnonzero(~np.isfinite(numbers))
            if len(wrong):
                raise DataError("not a finite number", file=name, row=int(wrong[0]) + 1, column="value")
            values = numbers.tolist()
        return list(zip(campaigns, users, values, strict=True))

    def checksum_of(self, name: str) -> str:
        """SHA-256 of a file.

        Raises:
            DataError: it is not there.
        """
        if name not in self._checksums:
            path = self.folder / name
            if not path.is_file():
                raise DataError("no such file (paths are relative to the campaign file)", file=name)
            self._checksums[name] = checksum(path)
        return self._checksums[name]

    def _table(self, name: str) -> pa.Table:
        import pyarrow as pa
        from pyarrow import csv, parquet

        self.checksum_of(name)
        path = self.folder / name
        try:
            if path.suffix == ".parquet":
                table = parquet.read_table(path)
            else:
                as_text = csv.ConvertOptions(
                    column_types=dict.fromkeys((*USER, "campaign"), pa.string()), strings_can_be_null=True
                )
                table = csv.read_csv(path, convert_options=as_text)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(str(error).splitlines()[0], file=name) from None
        return table


NOBODY = Contacts([], np.zeros(0, np.int64), None)


def _user_column(table: pa.Table, file: str) -> str:
    found = [name for name in table.column_names if name.lower() in USER]
    if not found and table.num_columns == 1:
        return str(table.column_names[0])
    if not found:
        raise DataError(
            f"no column of users: call it `user` (there is {', '.join(table.column_names)})", file=file
        )
    return str(min(found, key=lambda name: USER.index(name.lower())))


def _texts(table: pa.Table, column: str, file: str) -> list[str]:
    import pyarrow as pa

    values = table.column(column)
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy())[0])
        raise DataError("an empty cell", file=file, row=row + 1, column=column)
    texts: list[str] = values.cast(pa.string()).to_pylist()
    return texts


def _moments(table: pa.Table, file: str) -> np.ndarray:
    import pyarrow as pa

    values: Any = table.column("time")
    try:
        if not (pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)):
            seconds = values.cast(pa.float64()).to_numpy()
            return np.round(seconds * 1e6).astype(np.int64)
        return values.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError("neither times nor seconds", file=file, column="time") from None
