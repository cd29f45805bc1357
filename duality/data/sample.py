"""The bundled sample: MovieTweetings 100k, 100,000 ratings from tweets of 2013 (MIT licence)."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The folder of the sample; `import_events` reads it."""
    return Path(__file__).parent / "movietweetings"
