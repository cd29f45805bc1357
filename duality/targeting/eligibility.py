"""Who may be had by which campaign, and why the others may not: the funnel.

Every user who may not has one reason, the first of `REASONS` that holds. A frequency cap counts contacts in the days
before a campaign begins and this run's own; a user gets no more campaigns together than the strictest of the shared
caps allows that leave them any, so that no cap can be broken whoever is chosen.

Shapes: C campaigns, U users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duality.errors import ConfigError, FilterError
from duality.targeting.lists import NOBODY, Contacts, Lists
from duality.targeting.scoring import Population, TargetingIndex, seed_rows
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
NOT_INCLUDED = REASONS.index("not included by the rule")
DAY = 86_400_000_000
NO = np.zeros((), bool)  # nobody fails here


@dataclass(frozen=True, eq=False)
class Eligibility:
    """Who may be had.

    Attributes:
        reason: int8 [C, U], a place in `REASONS`; 0 for those who may.
        capacity: int64 [U], campaigns that a user may be in.
        expanded: bool [C, U], who may although the include rule does not match.
    """

    reason: np.ndarray
    capacity: np.ndarray
    expanded: np.ndarray

    @property
    def eligible(self) -> np.ndarray:
        """bool [C, U]."""
        return self.reason == ELIGIBLE

    def funnel(self, campaign: int) -> list[tuple[str, int]]:
        """What each reason leaves, from everybody to the eligible, as (step, users left)."""
        reason = self.reason[campaign]
        counts = np.bincount(reason, minlength=len(REASONS))
        left, steps = len(reason), [("users", len(reason))]
        for place in range(1, len(REASONS)):
            if counts[place]:
                left -= int(counts[place])
                steps.append((REASONS[place], left))
        return steps


def judge(
    index: TargetingIndex, people: Population, file: CampaignFile, values: np.ndarray, lists: Lists
) -> Eligibility:
    """The funnel of every campaign.

    Args:
        values: float64 [C, U], what users are worth.
        lists: of the campaign file.

    Raises:
        ConfigError: a filter that does not fit; the campaign is named.
        DataError: a list that cannot be read.
    """
    run = file.run
    contacts = NOBODY if run.contacts is None else lists.contacts(run.contacts)
    consenting = _consenting(index, people, run.consent_column)
    everywhere = _listed(people, lists, run.suppress)
    reason = np.zeros(values.shape, np.int8)
    capacity = np.full(len(people.ids), run.cap, np.int64)
    for row, campaign in enumerate(file.campaigns):
        left = _contacts_left(people, contacts, run.frequency_cap, campaign, index.moment)
        for scope, room in left:
            if scope == "all":  # who has none left is out of this campaign, and may be in others
                capacity = np.where(room < 1, capacity, np.minimum(capacity, room))
        excluded, not_included = _by_rules(index, people, campaign)
        failing = (
            ~consenting,
            everywhere | _listed(people, lists, campaign.suppress),
            _seeds(people, campaign),
            excluded,
            np.any([room < 1 for _, room in left], axis=0) if left else NO,
            not_included,
            *_by_value(campaign, values[row], run.scores == "probability"),
        )
        for place, mask in reversed(list(enumerate(failing, start=1))):
            reason[row, np.broadcast_to(mask, len(people.ids))] = place
    return Eligibility(reason, capacity, _expand(file, reason, values))


def _consenting(index: TargetingIndex, people: Population, column: str | None) -> np.ndarray:
    if column is None:
        return ~NO
    return _matching(index, people, f"{column} = true", "run: consent_column")


def _contacts_left(
    people: Population, contacts: Contacts, of_run: FrequencyCap | None, campaign: Campaign, now: int
) -> list[tuple[str, np.ndarray]]:
    """Of each frequency cap its scope and the contacts that every user has left, int64 [U]."""
    caps = [cap for cap in (of_run, campaign.frequency_cap) if cap is not None]
    return [(cap.scope, cap.n - past_contacts(people, contacts, cap, campaign, now)) for cap in caps]


def past_contacts(
    people: Population, contacts: Contacts, cap: FrequencyCap, campaign: Campaign, now: int
) -> np.ndarray:
    """Contacts of every user that a cap counts, int64 [U]: those of the days before the campaign begins, or before now."""
    begins = campaign.window.begins()
    end = now if begins is None else begins
    counted = (contacts.time <= end) & (contacts.time > end - cap.days * DAY)
    if cap.scope == "campaign" and contacts.campaign is not None:
        counted &= np.array(contacts.campaign) == campaign.id
    return np.bincount(contacts.rows(people.ids)[counted] + 1, minlength=len(people.ids) + 1)[1:]


def _by_rules(index: TargetingIndex, people: Population, campaign: Campaign) -> tuple[np.ndarray, np.ndarray]:
    """Who the exclude rule matches, and whom the include rule does not."""
    source = f"campaign '{campaign.id}'"
    masks = {key: _matching(index, people, text, source) for key, text in campaign.rules().items()}
    return masks.get("exclude", NO), ~masks.get("include", ~NO)


def _by_value(campaign: Campaign, values: np.ndarray, probability: bool) -> tuple[np.ndarray, np.ndarray]:
    """Who is below min_score, and who below min_lift."""
    low = NO if campaign.min_score is None else values < campaign.min_score
    return low, NO if campaign.min_lift is None else lift(values, probability) < campaign.min_lift


def lift(values: np.ndarray, probability: bool) -> np.ndarray:
    """How many times as likely as the average user, float64 [U], from probabilities or their logarithms."""
    if not probability:
        values = np.exp(values - values.max())
    return values / max(values.mean(), np.finfo(float).tiny)


def _expand(file: CampaignFile, reason: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Fill campaigns that ask for it with the best whom only the include rule kept out; changes `reason`."""
    expanded = np.zeros(reason.shape, bool)
    for row, campaign in enumerate(file.campaigns):
        may = int((reason[row] == ELIGIBLE).sum())
        missing = campaign.asks(may) - may
        if campaign.expansion and missing > 0:
            low, unlikely = _by_value(campaign, values[row], file.run.scores == "probability")
            others = np.flatnonzero((reason[row] == NOT_INCLUDED) & ~low & ~unlikely)
            best = others[np.argsort(-values[row, others], kind="stable")[:missing]]
            expanded[row, best], reason[row, best] = True, ELIGIBLE
    return expanded


def _seeds(people: Population, campaign: Campaign) -> np.ndarray:
    mask = np.zeros(len(people.ids), bool)
    mask[seed_rows(people, campaign)] = True
    return mask


def _listed(people: Population, lists: Lists, names: Sequence[str]) -> np.ndarray:
    """bool [U]: users of any of some lists."""
    mask = np.zeros(len(people.ids), bool)
    for name in names:
        mask[[people.row[user] for user in lists.users(name) if user in people.row]] = True
    return mask


def _matching(index: TargetingIndex, people: Population, expression: str, source: str) -> np.ndarray:
    try:
        ids, _ = index.users.matching(expression)
    except FilterError as error:
        raise ConfigError(f"{source}: {error}") from None
    matched = np.zeros(len(people.ids), dtype=bool)
    matched[[people.row[text] for text in ids]] = True
    return matched
