"""Every error that duality raises on purpose, in one tree.

    DualityError                     exit code 1: failed while running
    ├── DamageError                  a stored file does not match its checksum
    ├── TrainingError                training cannot go on (NaN loss, nothing to train on)
    ├── GateError                    exit code 3: a gate failed (unmet quota, privacy floor)
    └── InputError                   exit code 2: bad usage or bad input
        ├── DataError                a source file or frame; names file, row and column
        ├── ConfigError              a recipe, spec or campaign; names the key
        ├── FilterError              a filter expression; names the position
        ├── UnknownIdError           an id nobody stored; suggests near ones
        └── MissingExtraError        an optional dependency; names the extra

The command line prints the message on one line of stderr and exits with `exit_code`.
Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DualityError(Exception):
    """Base of all errors with a message meant for the person at the terminal."""

    exit_code = 1


class DamageError(DualityError):
    """A stored file is damaged; the message says which and how to mend it."""


class TrainingError(DualityError):
    """Training stopped; the last good checkpoint stays where it was."""


class GateError(DualityError):
    """A gate that the caller set did not hold."""

    exit_code = 3


class InputError(DualityError):
    """Bad usage or bad input; nothing stored has changed."""

    exit_code = 2


class DataError(InputError):
    """A source cannot be imported.

    Args:
        what: what is wrong and how to mend it, one line.
        file: the source, as the user named it.
        row: 1-based row of the data (a header does not count), if known.
        column: the column, if known.
    """

    def __init__(
        self, what: str, *, file: str | None = None, row: int | None = None, column: str | None = None
    ) -> None:
        self.what, self.file, self.row, self.column = what, file, row, column
        where = [
            str(file) if file is not None else "",
            f"row {row}" if row is not None else "",
            f"column '{column}'" if column is not None else "",
        ]
        place = ", ".join(part for part in where if part)
        super().__init__(f"{place}: {what}" if place else what)


class ConfigError(InputError):
    """A configuration file or override does not fit."""


class FilterError(InputError):
    """A filter expression does not parse or names an unknown column.

    Args:
        what: what is wrong, one line.
        expression: the whole expression.
        position: 0-based character at which it went wrong.
    """

    def __init__(self, what: str, *, expression: str, position: int) -> None:
        self.position = position
        super().__init__(f"filter, position {position + 1}: {what} in: {expression}")


class UnknownIdError(InputError):
    """An id that is not stored on that side."""


class MissingExtraError(InputError):
    """An optional dependency is missing; the message names the extra to install."""

    def __init__(self, package: str, extras: str) -> None:
        super().__init__(f"{package} is not installed: pip install {extras}")


def suggestion(word: str, known: Iterable[str]) -> str:
    """' (did you mean a, b?)' for the nearest of `known`, or '' when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(near)}?)" if near else ""
