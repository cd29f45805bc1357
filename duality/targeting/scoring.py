"""How much each user is worth to each campaign.

A campaign for items: mean over its items of ⟨item vector, user vector⟩. The stored vectors
make this the mean of log p(item | user), comparable across users and across campaigns.

A campaign for users like its seeds: ⟨mean of centred seed vectors, centred user vector⟩, the
mean over all users taken off first because vectors share one large common direction, which
is popularity. The seeds themselves are not candidates. These values are not log-probabilities:
in a run that mixes both kinds, the total adds different units.

With `scores = "probability"` a campaign for items is worth the mean over its items of the
calibrated probability, so the total of a run is the expected number of takers.

Shapes: C campaigns, U users, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from duality.errors import ConfigError, FilterError, InputError, UnknownIdError, suggestion
from duality.targeting.spec import Campaign

_USERS_AT_ONCE = 65_536


class UserSource(Protocol):
    """Users with their stored vectors."""

    def matching(self, where: str | None) -> tuple[Sequence[str], np.ndarray]:
        """Ids and vectors float32 [N, D] of the users that match; all when `where` is None."""


class ItemSource(Protocol):
    """Items with their stored vectors."""

    def get_vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Vectors float32 [N, D] in the order asked; UnknownIdError for an unknown id."""


class TargetingIndex(Protocol):
    """What a targeting run needs of an index."""

    @property
    def users(self) -> UserSource: ...

    @property
    def items(self) -> ItemSource: ...

    def probabilities(self, scores: np.ndarray, users: Sequence[str]) -> np.ndarray:
        """Calibrated probabilities float64 [U, N] of scores float [U, N], a row per user.

        Raises InputError where there is no score calibration. Only asked for when a run wants it.
        """

    @property
    def fingerprint(self) -> str:
        """Identity of the stored vectors and attributes."""


@dataclass(frozen=True)
class Population:
    """All users, sorted by id so that results do not depend on the order of insertion.

    Attributes:
        ids: U strings.
        vectors: float32 [U, D].
        row: id -> row.
    """

    ids: list[str]
    vectors: np.ndarray
    row: dict[str, int]


def population(users: UserSource) -> Population:
    """Read all users.

    Raises:
        InputError: there is none.
    """
    ids, vectors = users.matching(None)
    if len(ids) == 0:
        raise InputError("the index holds no users: build it with both sides before targeting")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    ordered = [ids[row] for row in order]
    return Population(ordered, np.asarray(vectors)[order], {text: row for row, text in enumerate(ordered)})


def campaign_values(
    index: TargetingIndex, people: Population, campaigns: Sequence[Campaign], *, calibrated: bool = False
) -> np.ndarray:
    """Value of every user for every campaign.

    Args:
        calibrated: campaigns for items are worth probabilities instead of log-probabilities.

    Returns:
        float64 [C, U]; -inf for a user who is not eligible.

    Raises:
        UnknownIdError: an item or seed user that is not stored; the campaign is named.
        ConfigError: a filter that does not fit; the campaign is named.
    """
    values = np.empty((len(campaigns), len(people.ids)))
    for row, campaign in enumerate(campaigns):
        values[row] = _scores(index, people, campaign, calibrated)
        values[row, ~_eligible(index, people, campaign)] = -np.inf
        if campaign.min_score is not None:
            values[row, values[row] < campaign.min_score] = -np.inf
    return values


def _scores(index: TargetingIndex, people: Population, campaign: Campaign, calibrated: bool) -> np.ndarray:
    if campaign.items:
        try:
            items = np.asarray(index.items.get_vectors(list(campaign.items)))
        except UnknownIdError as error:
            raise UnknownIdError(f"campaign '{campaign.id}': {error}") from None
        if calibrated:
            return _probabilities(index, people, items)
        return people.vectors @ items.mean(axis=0)
    centre = people.vectors.mean(axis=0)
    seeds = people.vectors[_seed_rows(people, campaign)]
    return (people.vectors - centre) @ (seeds.mean(axis=0) - centre)


def _probabilities(index: TargetingIndex, people: Population, items: np.ndarray) -> np.ndarray:
    """Mean over items of each user's probability, float64 [U]; blocks of users bound the memory."""
    parts = []
    for start in range(0, len(people.ids), _USERS_AT_ONCE):
        block = slice(start, start + _USERS_AT_ONCE)
        found = index.probabilities(people.vectors[block] @ items.T, people.ids[block])
        parts.append(found.mean(axis=1))
    return np.concatenate(parts)


def _seed_rows(people: Population, campaign: Campaign) -> list[int]:
    for seed in campaign.seed_users:
        if seed not in people.row:
            near = suggestion(seed, people.ids)
            raise UnknownIdError(f"campaign '{campaign.id}': seed user '{seed}' is not stored{near}")
    return [people.row[seed] for seed in campaign.seed_users]


def _eligible(index: TargetingIndex, people: Population, campaign: Campaign) -> np.ndarray:
    eligible = np.ones(len(people.ids), dtype=bool)
    if campaign.where is not None:
        eligible &= _matching(index, people, campaign, campaign.where)
    if campaign.exclude is not None:
        eligible &= ~_matching(index, people, campaign, campaign.exclude)
    eligible[_seed_rows(people, campaign)] = False
    return eligible


def _matching(index: TargetingIndex, people: Population, campaign: Campaign, expression: str) -> np.ndarray:
    try:
        ids, _ = index.users.matching(expression)
    except FilterError as error:
        raise ConfigError(f"campaign '{campaign.id}': {error}") from None
    matched = np.zeros(len(people.ids), dtype=bool)
    matched[[people.row[text] for text in ids]] = True
    return matched
