"""One column vocabulary: which column of a log is the user, the item, the time, the order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from duality.errors import DataError, suggestion

# Usual names, best first. Compared in lower case without separators, so `userId`, `user_id`
# and `USER ID` are one name. Finer clocks stand before coarser ones: a log that has both
# `time_ms` and `timestamp` keeps the order inside a second.
_USUAL = {
    "user": "userid user uid visitorid customerid customer memberid member reviewerid accountid profileid "
    "personid",
    "item": "itemid item iid movieid movie productid product videoid video parentasin asin bookid isbn "
    "trackid songid artistid articleid newsid sku contentid businessid goodsid gameid adid",
    "time": "timeus timestampus timems timestampms time timestamp ts datetime date eventtime unixreviewtime "
    "unixtime createdat reviewtime interactiontime",
    "order": "position order sequence seq step",
}


@dataclass(frozen=True)
class Mapping:
    """The log's column for each role; None where there is none."""

    user: str
    item: str
    time: str | None = None
    order: str | None = None
    event: str | None = None

    @property
    def used(self) -> set[str]:
        """Columns that are not event attributes."""
        return {
            name for name in (self.user, self.item, self.time, self.order, self.event) if name is not None
        }


def map_columns(
    found: Sequence[str], asked: dict[str, str | None], *, file: str, times_joined: bool
) -> Mapping:
    """Choose a column for each role.

    Args:
        found: the columns of the log.
        asked: role ("user", "item", "time", "order", "event") to the caller's choice or None.
        file: the source, for messages.
        times_joined: times come from another log, so this one needs an order but no time.

    Raises:
        DataError: a column is missing; the message lists those found and the option to use.
    """
    for role, name in asked.items():
        if name is not None and name not in found:
            what = f"no such column{suggestion(name, found)}; found: {_listed(found)}; see --{role}-column"
            raise DataError(what, file=file, column=name)
    user = asked.get("user") or _required("user", found, file)
    item = asked.get("item") or _required("item", found, file)
    time = asked.get("time") or recognise("time", found)
    order = asked.get("order")
    if order is None and (time is None or times_joined):
        order = recognise("order", found)
    if times_joined:
        time = None
    if time is None and order is None and not times_joined:
        raise DataError(
            f"neither a time nor an order column among {_listed(found)}: "
            "name one with --time-column or --order-column",
            file=file,
        )
    if user == item:
        raise DataError(
            "one column cannot be both user and item: see --user-column, --item-column", file=file
        )
    return Mapping(user, item, time, order, asked.get("event"))


def recognise(role: str, found: Sequence[str]) -> str | None:
    """The column among `found` with the best usual name for `role`, or None."""
    plain = {_plain(name): name for name in reversed(found)}
    return next((plain[usual] for usual in _USUAL[role].split() if usual in plain), None)


def id_column(side: str, found: Sequence[str], *, file: str) -> str:
    """The id column of a users or items file: a usual name, or `id`.

    Raises:
        DataError: there is none.
    """
    name = recognise(side[:-1], found) or next((name for name in found if _plain(name) == "id"), None)
    if name is None:
        raise DataError(f"no id column among {_listed(found)}: call it {side[:-1]}_id", file=file)
    return name


def _required(role: str, found: Sequence[str], file: str) -> str:
    name = recognise(role, found)
    if name is None:
        raise DataError(f"no {role} column among {_listed(found)}: name it with --{role}-column", file=file)
    return name


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name if len(name) <= 40 else name[:37] + "..." for name in names[:20])
    return shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")
