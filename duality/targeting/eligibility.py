"""Who may be had by which campaign, and why the others may not: the funnel.

Every user who may not has one reason, the first of `REASONS` that holds. What lists, rules and past contacts say is known
before anybody is scored and made once for all users; what a value says is added block by block. A frequency cap counts
contacts in the days before a campaign begins and this run's own; a user gets no more campaigns together than the
strictest of the shared caps allows that leave them any, so that no cap can be broken whoever is chosen.

Shapes: C campaigns, U users, n users of a block.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duality.artifacts import write_json
from duality.errors import ConfigError, FilterError
from duality.targeting.index_protocol import TargetingIndex
from duality.targeting.lists import NOBODY, Contacts, Lists
from duality.targeting.population import Population
from duality.targeting.scoring import seed_rows
from duality.targeting.spec import Campaign, CampaignFile, FrequencyCap

ELIGIBLE = 0
REASONS = (
    "eligible",
    "no consent",
    "suppressed",
    "seed user",
    "excluded by the rule",
    "contacted too often",
    "not included by the rule",
    "below min_score",
    "below min_lift",
)
NOT_INCLUDED, BELOW_SCORE, BELOW_LIFT = (
    REASONS.index(text) for text in ("not included by the rule", "below min_score", "below min_lift")
)
DAY = 86_400_000_000
CAPACITY, STANDING = "capacity.npy", "standing.json"


@dataclass(frozen=True, eq=False)
class Standing:
    """What is known of users before they are scored.

    Attributes:
        masks: name to bool [U], users whom something keeps out.
        failing: per campaign the reasons that may hold and the masks of those for whom they do, in the order of
            `REASONS`.
        capacity: int64 [U], campaigns that a user may be in.
    """

    masks: dict[str, np.ndarray]
    failing: list[list[tuple[int, str]]]
    capacity: np.ndarray

    def reasons(self, campaign: int, rows: slice | np.ndarray) -> np.ndarray | None:
        """int8 [n], places in `REASONS`; None where nobody is kept out."""
        if not self.failing[campaign]:
            return None
        found: np.ndarray | None = None
        for place, name in reversed(self.failing[campaign]):
            mask = self.masks[name][rows]
            found = np.zeros(len(mask), np.int8) if found is None else found
            found[mask] = place
        return found

    def save(self, folder: Path) -> None:
        """Write into `folder`, which exists."""
        names = {name: f"mask-{number}.npy" for number, name in enumerate(self.masks)}
        for name, file in names.items():
            np.save(folder / file, self.masks[name])
        np.save(folder / CAPACITY, self.capacity)
        write_json(folder / STANDING, {"masks": names, "failing": self.failing})

    @staticmethod
    def load(folder: Path) -> Standing:
        """What `save` wrote; masks are mapped."""
        about = json.loads((folder / STANDING).read_text(encoding="utf-8"))
        masks = {name: np.load(folder / file, mmap_mode="r") for name, file in about["masks"].items()}
        failing = [[(int(place), str(name)) for place, name in row] for row in about["failing"]]
        return Standing(masks, failing, np.load(folder / CAPACITY, mmap_mode="r"))


def by_value(
    reason: np.ndarray | None, values: np.ndarray, low: float | None, unlikely: float | None
) -> np.ndarray | None:
    """Reasons int8 [n] with those that values float32 [n] give to users whom nothing else keeps out.

    Args:
        low: `min_score`, if asked for.
        unlikely: the value below which `min_lift` is missed, if asked for.
    """
    for place, bound in ((BELOW_SCORE, low), (BELOW_LIFT, unlikely)):
        if bound is not None:
            reason = np.zeros(len(values), np.int8) if reason is None else reason
            reason[(reason == ELIGIBLE) & (values < bound)] = place
    return reason


def standing_of(index: TargetingIndex, people: Population, file: CampaignFile, lists: Lists) -> Standing:
    """Read the lists, ask the rules.

    Raises:
        ConfigError: a filter that does not fit; the campaign is named.
        DataError: a list that cannot be read.
        UnknownIdError: a seed user that is not stored.
    """
    masks = _Masks(index, people, file, lists)
    failing = [masks.failing(campaign) for campaign in file.campaigns]
    used = {name for row in failing for _, name in row}
    return Standing({name: masks.made[name] for name in masks.made if name in used}, failing, masks.capacity)


class _Masks:
    """Whom lists, rules and contacts keep out, each looked up once."""

    def __init__(self, index: TargetingIndex, people: Population, file: CampaignFile, lists: Lists) -> None:
        self.index, self.people, self.run, self.lists = index, people, file.run, lists
        self.made: dict[str, np.ndarray] = {}
        self.capacity = np.full(people.count, file.run.cap, np.int64)
        known = NOBODY if self.run.contacts is None else lists.contacts(self.run.contacts)
        self.past = Past(people, known, index.moment)

    def failing(self, campaign: Campaign) -> list[tuple[int, str]]:
        """Reasons that hold for somebody, and the names of the masks that say for whom."""
        source = f"campaign '{campaign.id}'"
        found = (
            ("no consent", self._consent()),
            ("suppressed", self._listed(campaign)),
            ("seed user", self._seeds(campaign)),
            ("excluded by the rule", self._rule(campaign.exclude, source, matching=True)),
            ("contacted too often", self._contacted(campaign)),
            ("not included by the rule", self._rule(campaign.include, source, matching=False)),
        )
        return [(REASONS.index(text), name) for text, name in found if name and self.made[name].any()]

    def _once(self, name: str, make: Callable[[], np.ndarray]) -> str:
        if name not in self.made:
            self.made[name] = make()
        return name

    def _consent(self) -> str | None:
        if self.run.consent_column is None:
            return None
        return self._rule(f"{self.run.consent_column} = true", "run: consent_column", matching=False)

    def _listed(self, campaign: Campaign) -> str | None:
        names = sorted({*campaign.suppress, *self.run.suppress})
        if not names:
            return None
        return self._once(
            f"in {names}", lambda: self.people.among({user for n in names for user in self.lists.users(n)})
        )

    def _seeds(self, campaign: Campaign) -> str | None:
        if not campaign.seed_users:
            return None
        mask = np.zeros(self.people.count, bool)
        mask[seed_rows(self.people, campaign)] = True
        return self._once(f"seeds of {campaign.id}", lambda: mask)

    def _rule(self, rule: str | None, source: str, *, matching: bool) -> str | None:
        if rule is None:
            return None
        try:
            name = self._once(rule, lambda: self.people.among(self.index.users.ids_where(rule)))
        except FilterError as error:
            raise ConfigError(f"{source}: {error}") from None
        return name if matching else self._once(f"not {rule}", lambda: ~self.made[name])

    def _contacted(self, campaign: Campaign) -> str | None:
        caps = [cap for cap in (self.run.frequency_cap, campaign.frequency_cap) if cap is not None]
        left = [(cap.scope, self.past.left(cap, campaign)) for cap in caps]
        for scope, room in left:
            if scope == "all":  # who has none left is out of this campaign, and may be in others
                self.capacity = np.where(room < 1, self.capacity, np.minimum(self.capacity, room))
        if not left:
            return None
        return self._once(f"contacts of {campaign.id}", lambda: np.any([r < 1 for _, r in left], axis=0))


class Past:
    """Contacts that caps count.

    Args:
        now: microseconds since 1970, where a campaign does not say when it begins.
    """

    def __init__(self, people: Population, contacts: Contacts, now: int) -> None:
        self.people, self.contacts, self.now = people, contacts, now
        known, self._number = np.unique(np.array(contacts.user, object), return_inverse=True)
        self._places, self._known = people.places([str(user) for user in known]), len(known)

    def left(self, cap: FrequencyCap, campaign: Campaign) -> np.ndarray:
        """Contacts that a cap leaves every user, int64 [U]."""
        return cap.n - self.counted(cap, campaign)

    def counted(self, cap: FrequencyCap, campaign: Campaign) -> np.ndarray:
        """Contacts of every user that a cap counts, int64 [U]: those of the days before the campaign begins, or before now."""
        contacts, begins = self.contacts, campaign.window.begins()
        end = self.now if begins is None else begins
        counted = (contacts.time <= end) & (contacts.time > end - cap.days * DAY)
        if cap.scope == "campaign" and contacts.campaign is not None:
            counted &= np.array(contacts.campaign) == campaign.id
        # One place more, for users without any contact: they stand at -1.
        number = np.bincount(self._number[counted], minlength=self._known + 1)
        found: np.ndarray = number[self._places]
        return found


def funnel(counts: np.ndarray) -> list[tuple[str, int]]:
    """What each reason leaves, from everybody to the eligible, as (step, users left); `counts` int64, by `REASONS`."""
    left = int(counts.sum())
    steps = [("users", left)]
    for place in range(1, len(REASONS)):
        if counts[place]:
            left -= int(counts[place])
            steps.append((REASONS[place], left))
    return steps
