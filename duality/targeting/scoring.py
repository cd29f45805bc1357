"""How much each user is worth to each campaign.

A campaign for items (named, or all that match `items_where`): mean over its items of ⟨item vector, user
vector⟩. The stored vectors make this the mean of log p(item | user), comparable across users and across campaigns.

A campaign for users like its seeds: ⟨mean of centred seed vectors, centred user vector⟩, the
mean over all users taken off first because vectors share one large common direction, which
is popularity. A campaign for a point: the inner product with it, likewise centred. These values are not log-probabilities:
in a run that mixes both kinds, the total adds different units.

With `scores = "probability"` a campaign for items is worth the mean over its items of the
calibrated probability, so the total of a run is the expected number of takers.

Shapes: C campaigns, U users, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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

    def matching(self, where: str) -> tuple[Sequence[str], np.ndarray]:
        """Ids and vectors float32 [N, D] of the items that match."""


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
    def moment(self) -> int:
        """Microseconds since 1970: how far the index knows; where a campaign does not say when it begins."""

    @property
    def about(self) -> dict[str, Any]:
        """Where the vectors come from: model, dataset, how far they know."""

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
    """Value of every user for every campaign, float64 [C, U].

    Args:
        calibrated: campaigns for items are worth probabilities instead of log-probabilities.

    Raises:
        UnknownIdError: an item or seed user that is not stored; the campaign is named.
        ConfigError: a rule over items that does not fit or matches none, a vector of another length.
    """
    values = np.empty((len(campaigns), len(people.ids)))
    for row, campaign in enumerate(campaigns):
        values[row] = _scores(index, people, campaign, calibrated)
    return values


def _scores(index: TargetingIndex, people: Population, campaign: Campaign, calibrated: bool) -> np.ndarray:
    if campaign.items or campaign.items_where:
        items = target_items(index, campaign)[1]
        if calibrated:
            return _probabilities(index, people, items)
        return people.vectors @ items.mean(axis=0)
    centre = people.vectors.mean(axis=0)
    if campaign.vector:
        return (people.vectors - centre) @ _point(people, campaign)
    seeds = people.vectors[seed_rows(people, campaign)]
    return (people.vectors - centre) @ (seeds.mean(axis=0) - centre)


def target_items(index: TargetingIndex, campaign: Campaign) -> tuple[list[str], np.ndarray]:
    """Ids and vectors float32 [N, D] of the items that a campaign is for.

    Raises:
        UnknownIdError, ConfigError: see `campaign_values`.
    """
    source = f"campaign '{campaign.id}'"
    try:
        if campaign.items_where is None:
            return list(campaign.items), np.asarray(index.items.get_vectors(list(campaign.items)))
        ids, vectors = index.items.matching(campaign.items_where)
    except UnknownIdError as error:
        raise UnknownIdError(f"{source}: {error}") from None
    except FilterError as error:
        raise ConfigError(f"{source}: items_where: {error}") from None
    if not len(ids):
        raise ConfigError(f"{source}: items_where: no item matches {campaign.items_where}")
    return list(ids), np.asarray(vectors)


def _point(people: Population, campaign: Campaign) -> np.ndarray:
    """The campaign's vector as users are stored; without the last values, which are biases, it may be given as well."""
    width, given = people.vectors.shape[1], len(campaign.vector)
    if not 0 < given <= width:
        raise ConfigError(f"campaign '{campaign.id}': vector has {given} values, and users have {width}")
    return np.pad(np.array(campaign.vector, np.float32), (0, width - given))


def _probabilities(index: TargetingIndex, people: Population, items: np.ndarray) -> np.ndarray:
    """Mean over items of each user's probability, float64 [U]; blocks of users bound the memory."""
    parts = []
    for start in range(0, len(people.ids), _USERS_AT_ONCE):
        block = slice(start, start + _USERS_AT_ONCE)
        found = index.probabilities(people.vectors[block] @ items.T, people.ids[block])
        parts.append(found.mean(axis=1))
    return np.concatenate(parts)


def seed_rows(people: Population, campaign: Campaign) -> list[int]:
    """Rows of a campaign's seed users.

    Raises:
        UnknownIdError: one is not stored; near ones are suggested.
    """
    for seed in campaign.seed_users:
        if seed not in people.row:
            near = suggestion(seed, people.ids)
            raise UnknownIdError(f"campaign '{campaign.id}': seed user '{seed}' is not stored{near}")
    return [people.row[seed] for seed in campaign.seed_users]
