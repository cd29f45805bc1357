"""The campaign file: who asks for how many users, and under which conditions.

[run]
cap = 1                       # campaigns per user at most
scores = "probability"        # by the model's score calibration; default "log-probability"

[[campaign]]
id = "spring"
items = ["50", "181"]         # users for these items, or
seed_users = ["7", "8"]       # users like these (one of the two)
size = 1000
where = "country = 'DE'"      # optional: only users that match
exclude = "opted_out = true"  # optional: no user that matches
min_score = -9.5              # optional: no user below
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from duality.config import Config, read_toml, validate
from duality.errors import ConfigError, suggestion


class RunSettings(Config):
    """What holds for all campaigns together."""

    cap: int = Field(1, ge=1, description="campaigns per user at most")
    scores: Literal["log-probability", "probability"] = Field(
        "log-probability",
        description="what a user is worth: log p(item | user), or its calibrated probability",
    )


class Campaign(Config):
    """One request for an audience."""

    id: str = Field(min_length=1)
    items: tuple[str, ...] = ()
    seed_users: tuple[str, ...] = ()
    size: int = Field(ge=1)
    where: str | None = None
    exclude: str | None = None
    min_score: float | None = Field(None, allow_inf_nan=False)


class CampaignFile(Config):
    """All campaigns of one run, in the file's order."""

    run: RunSettings
    campaigns: tuple[Campaign, ...]


def read_campaigns(path: Path) -> CampaignFile:
    """Read and check a campaign file.

    Raises:
        ConfigError: not TOML, unknown key, no campaign, or a campaign that contradicts
            itself or repeats an id; the campaign is named.
    """
    values = read_toml(path)
    for key in values.keys() - {"run", "campaign"}:
        raise ConfigError(f"{path}: {key}: unknown key{suggestion(key, ['run', 'campaign'])}")
    sections, run = values.get("campaign", []), values.get("run", {})
    tables = isinstance(sections, list) and all(isinstance(section, dict) for section in sections)
    if not tables or not sections or not isinstance(run, dict):
        raise ConfigError(f"{path}: write each campaign as [[campaign]], the settings of the run as [run]")
    settings = validate(RunSettings, run, source=f"{path}: run")
    campaigns = tuple(_campaign(section, number, path) for number, section in enumerate(sections, start=1))
    _refuse_repeated_ids(campaigns, path)
    _refuse_uncalibrated(settings, campaigns, path)
    return CampaignFile(run=settings, campaigns=campaigns)


def _campaign(section: dict[str, Any], number: int, path: Path) -> Campaign:
    source = f"{path}: campaign '{section.get('id', f'number {number}')}'"
    campaign = validate(Campaign, section, source=source)
    if bool(campaign.items) == bool(campaign.seed_users):
        raise ConfigError(f"{source}: give either items or seed_users, one of the two")
    for key in ("items", "seed_users"):
        ids = getattr(campaign, key)
        if len(set(ids)) < len(ids):
            raise ConfigError(f"{source}: {key}: an id stands there twice")
    return campaign


def _refuse_repeated_ids(campaigns: tuple[Campaign, ...], path: Path) -> None:
    known: set[str] = set()
    for campaign in campaigns:
        if campaign.id in known:
            raise ConfigError(f"{path}: campaign '{campaign.id}': a second campaign with this id")
        known.add(campaign.id)


def _refuse_uncalibrated(settings: RunSettings, campaigns: tuple[Campaign, ...], path: Path) -> None:
    seeded = [campaign.id for campaign in campaigns if campaign.seed_users]
    if settings.scores == "probability" and seeded:
        raise ConfigError(
            f"{path}: campaign '{seeded[0]}': likeness to seed users has no probability: give items, or leave "
            'out scores = "probability"'
        )
