"""The campaign file: who asks for whom, how many, and under which conditions.

[run]
cap = 1                            # campaigns per user at most
scores = "log-intensity"           # how often a user will take it; "probability" by the model's score calibration;
                                   # default "log-probability", of the user's next event
rate_days = 30.0                   # how fast what users did fades from how often they act
min_audience = 100                 # smaller audiences are refused
consent_column = "may_contact"     # only users for whom it is true
sensitive_columns = ["religion"]   # may stand in no rule and no explanation
suppress = ["optout.csv"]          # ids that no campaign may have
contacts = "contacts.parquet"      # user, campaign, time of past contacts
frequency_cap = {n = 3, days = 7}  # contacts per user, past ones and this run's

[[campaign]]
id = "spring"
items = ["50", "181"]              # users for these items; or one of
items_where = "genres contains 'Drama'"   # the items that match,
vector = [0.1, -0.3]               #   a point of the model's space,
seed_users = ["7", "8"]            #   users like these
size = 1000                        # how many; or ratio = 0.1 (of the eligible), or budget = 500.0 and cost = 0.5
include = "country = 'DE'"         # everything below is optional
exclude = "opted_out = true"
suppress = ["customers.csv"]
min_score = -9.5
min_lift = 2.0                     # times what the average user would answer
quota_min = 500                    # the run fails with fewer
quota_max = 2000
frequency_cap = {n = 1, days = 30, scope = "campaign"}
window = {start = 2024-05-01, end = 2024-05-14}
holdout = {fraction = 0.1, salt = "spring"}
expansion = true                   # too few match `include`: the best of the others fill up
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, field_validator

from duality.config import Config, read_toml, validate
from duality.errors import ConfigError, FilterError, suggestion
from duality.predicates import columns_of, parse

MIN_AUDIENCE = 100
TARGETS = ("items", "items_where", "vector", "seed_users")
Scores = Literal["log-probability", "log-intensity", "probability"]


class FrequencyCap(Config):
    """At most `n` contacts within `days` before a campaign begins, this run's included."""

    n: int = Field(ge=1)
    days: float = Field(gt=0, allow_inf_nan=False)
    scope: Literal["campaign", "all"] = "all"  # whose contacts count


class Holdout(Config):
    """A share of the audience that is not contacted, so that the effect of contact can be measured."""

    fraction: float = Field(gt=0, lt=1)
    salt: str = ""


class Window(Config):
    """When a campaign runs: frequency caps look back from its start. Dates without a zone are UTC."""

    start: datetime | None = None
    end: datetime | None = None

    @field_validator("start", "end", mode="before")
    @classmethod
    def _moment(cls, value: Any) -> Any:
        return datetime(value.year, value.month, value.day) if type(value) is date else value

    def begins(self) -> int | None:
        """Microseconds since 1970 at which it starts, if it says."""
        if self.start is None:
            return None
        start = self.start if self.start.tzinfo else self.start.replace(tzinfo=UTC)
        return round(start.timestamp() * 1e6)


class RunSettings(Config):
    """What holds for all campaigns together."""

    cap: int = Field(1, ge=1, description="campaigns per user at most")
    scores: Scores = Field(
        "log-probability",
        description="what a user is worth: log p(item | user) of the next event, the same and how often the user acts, "
        "or the calibrated probability",
    )
    scoring: Literal["exact", "index"] = Field(
        "exact", description="whether everybody is scored, or those whom the index finds"
    )
    rate_days: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="fading time of how often users act"
    )
    min_audience: int = Field(MIN_AUDIENCE, ge=1)
    consent_column: str | None = None
    sensitive_columns: tuple[str, ...] = ()
    suppress: tuple[str, ...] = ()
    contacts: str | None = None
    frequency_cap: FrequencyCap | None = None


class Campaign(Config):
    """One request for an audience."""

    id: str = Field(min_length=1)
    items: tuple[str, ...] = ()
    items_where: str | None = None
    vector: tuple[float, ...] = ()
    seed_users: tuple[str, ...] = ()
    objective: Scores | None = None  # that of the run
    size: int | None = Field(None, ge=1)
    ratio: float | None = Field(None, gt=0, le=1)
    budget: float | None = Field(None, gt=0, allow_inf_nan=False)
    cost: float | None = Field(None, gt=0, allow_inf_nan=False)
    include: str | None = Field(None, validation_alias=AliasChoices("include", "where"))
    exclude: str | None = None
    suppress: tuple[str, ...] = ()
    min_score: float | None = Field(None, allow_inf_nan=False)
    min_lift: float | None = Field(None, gt=0, allow_inf_nan=False)
    quota_min: int | None = Field(None, ge=1)
    quota_max: int | None = Field(None, ge=1)
    frequency_cap: FrequencyCap | None = None
    window: Window = Window()
    holdout: Holdout | None = None
    expansion: bool = False
    min_audience: int | None = Field(None, ge=1)  # that of the run

    def asks(self, eligible: int) -> int:
        """How many users it wants of so many that may be had."""
        if self.size is not None:
            wanted = self.size
        elif self.ratio is not None:
            wanted = int(self.ratio * eligible)
        elif self.budget is not None and self.cost is not None:
            wanted = int(self.budget / self.cost + 1e-9)
        else:
            wanted = eligible
        return wanted if self.quota_max is None else min(wanted, self.quota_max)

    def rules(self) -> dict[str, str]:
        """Filters over users, by the key they stand under."""
        given = {"include": self.include, "exclude": self.exclude}
        return {key: text for key, text in given.items() if text is not None}


class CampaignFile(Config):
    """All campaigns of one run, in the file's order."""

    run: RunSettings
    campaigns: tuple[Campaign, ...]

    def floor(self, campaign: Campaign) -> int:
        """The smallest audience that a campaign may have."""
        return self.run.min_audience if campaign.min_audience is None else campaign.min_audience


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
    file = CampaignFile(run=settings, campaigns=campaigns)
    _refuse_repeated_ids(campaigns, path)
    _refuse_no_column(settings, path)
    for campaign in campaigns:
        _refuse_contradictions(campaign, settings, f"{path}: campaign '{campaign.id}'")
    _refuse_mixed_units(settings, campaigns, path)
    return file


def _campaign(section: dict[str, Any], number: int, path: Path) -> Campaign:
    source = f"{path}: campaign '{section.get('id', f'number {number}')}'"
    if "include" in section and "where" in section:
        raise ConfigError(f"{source}: include and where are the same: give one of the two")
    campaign = validate(Campaign, section, source=source)
    given = [name for name in TARGETS if getattr(campaign, name)]
    if len(given) != 1:
        raise ConfigError(f"{source}: give {', '.join(TARGETS[:-1])} or {TARGETS[-1]}, exactly one of them")
    for key in ("items", "seed_users"):
        ids = getattr(campaign, key)
        if len(set(ids)) < len(ids):
            raise ConfigError(f"{source}: {key}: an id stands there twice")
    return campaign


def _refuse_contradictions(campaign: Campaign, run: RunSettings, source: str) -> None:
    sizes = [name for name in ("size", "ratio", "budget") if getattr(campaign, name) is not None]
    if len(sizes) > 1:
        raise ConfigError(f"{source}: {' and '.join(sizes)} contradict each other: give one of them")
    if (campaign.budget is None) != (campaign.cost is None):
        raise ConfigError(f"{source}: a budget needs a cost, of one contact, and a cost a budget")
    if not sizes and campaign.quota_max is None:
        raise ConfigError(f"{source}: how many? give size, ratio, budget and cost, or quota_max")
    least, most = campaign.quota_min, campaign.quota_max
    if least is not None and most is not None and least > most:
        raise ConfigError(f"{source}: quota_min {least} is more than quota_max {most}")
    if least is not None and campaign.ratio is None and campaign.asks(least) < least:
        raise ConfigError(f"{source}: quota_min {least} is more than it asks for ({campaign.asks(least)})")
    if campaign.window.start and campaign.window.end and campaign.window.end < campaign.window.start:
        raise ConfigError(f"{source}: window: it ends before it starts")
    if campaign.expansion and campaign.include is None:
        raise ConfigError(f"{source}: expansion goes beyond an include rule, and there is none")
    if campaign.min_lift is not None and (campaign.seed_users or campaign.vector):
        raise ConfigError(f"{source}: min_lift compares probabilities of items: likeness has none")
    if campaign.frequency_cap and campaign.frequency_cap.scope == "campaign" and run.contacts is None:
        raise ConfigError(
            f"{source}: frequency_cap counts past contacts: give their file as contacts in [run]"
        )
    for key, text in campaign.rules().items():
        _refuse_sensitive(text, run.sensitive_columns, f"{source}: {key}")


def _refuse_sensitive(text: str, sensitive: tuple[str, ...], source: str) -> None:
    try:
        used = columns_of(parse(text)) & set(sensitive)
    except FilterError as error:
        raise ConfigError(f"{source}: {error}") from None
    if used:
        raise ConfigError(f"{source}: '{sorted(used)[0]}' is a sensitive column: no rule may read it")


def _refuse_no_column(run: RunSettings, path: Path) -> None:
    """The consent column becomes part of a filter, so it has to be a column's name and nothing else."""
    if run.consent_column is None:
        return
    try:
        named = columns_of(parse(f"{run.consent_column} = true"))
    except FilterError:
        named = set()
    if named != {run.consent_column}:
        raise ConfigError(f"{path}: run: consent_column '{run.consent_column}' is not a column's name")


def _refuse_repeated_ids(campaigns: tuple[Campaign, ...], path: Path) -> None:
    known: set[str] = set()
    for campaign in campaigns:
        if campaign.id in known:
            raise ConfigError(f"{path}: campaign '{campaign.id}': a second campaign with this id")
        known.add(campaign.id)


def _refuse_mixed_units(settings: RunSettings, campaigns: tuple[Campaign, ...], path: Path) -> None:
    """Values of a run are added up, so all have one unit."""
    if settings.scoring == "index" and settings.scores != "log-probability":
        raise ConfigError(
            f'{path}: run: scoring = "index" finds users by log-probability, not by {settings.scores}: '
            "leave out one of the two"
        )
    for campaign in campaigns:
        source, unit = f"{path}: campaign '{campaign.id}'", campaign.objective or settings.scores
        if unit != settings.scores:
            raise ConfigError(
                f"{source}: objective {unit} in a run of {settings.scores}: values could not be added"
            )
        if unit != "log-probability" and (campaign.seed_users or campaign.vector):
            raise ConfigError(
                f"{source}: likeness to seed users or a vector has no {unit}: give items, or leave out "
                f'scores = "{unit}"'
            )
