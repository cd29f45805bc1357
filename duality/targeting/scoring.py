"""How much each user is worth to each campaign.

A campaign for items (named, or all that match `items_where`): mean over its items of ⟨item vector, user
vector⟩. The stored vectors make this the mean of log p(item | user) up to a number per campaign, comparable across users;
what makes it comparable across campaigns is added to it (`plan.plan_run`), where the index knows how often items are taken.

A campaign for users like its seeds: ⟨mean of centred seed vectors, centred user vector⟩, the
mean of the population taken off first because vectors share one large common direction, which
is popularity. A campaign for a point: the inner product with it, likewise centred. These values are not log-probabilities:
in a run that mixes both kinds, the total adds different units.

All of these are one product of the users with a vector per campaign, and a number. The log-probability is that of the
user's next event. Over days it matters as well how often a user acts: `scores = "log-intensity"` adds the log of that, and
the value is the log of how often a day the user is expected to take the items. With `scores = "probability"` a
campaign is worth the mean over its items of the calibrated probability instead, so the total of a run is the
expected number of takers.

Shapes: C campaigns, n users of a block, N items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duality.errors import ConfigError, FilterError, UnknownIdError, suggestion
from duality.targeting.index_protocol import TargetingIndex
from duality.targeting.population import Population
from duality.targeting.spec import Campaign, Scores


@dataclass(frozen=True, eq=False)
class Scorer:
    """Values of users for campaigns.

    Attributes:
        vectors: float32 [C, D].
        levels: float32 [C], added to the products.
        items: per campaign ids and vectors float32 [N, D] of its items; none for likeness.
        calibrated: values are probabilities.
        rates: float32 [U], added to the products where values are of takes a day.
    """

    vectors: np.ndarray
    levels: np.ndarray
    items: Sequence[tuple[list[str], np.ndarray]]
    calibrated: bool
    rates: np.ndarray | None = None

    def values(
        self, index: TargetingIndex, users: np.ndarray, ids: Sequence[str], rows: slice | np.ndarray
    ) -> np.ndarray:
        """float32 [C, n] of users float32 [n, D] at some rows; their ids matter to probabilities only."""
        if not self.calibrated:
            found: np.ndarray = self.vectors @ users.T
            if self.levels.any():
                found += self.levels[:, None]
            if self.rates is not None:
                found += self.rates[rows]
            return found
        values = np.empty((len(self.items), len(users)), np.float32)
        for row, (_, items) in enumerate(self.items):
            values[row] = index.probabilities(users @ items.T, ids).mean(axis=1)
        return values


def scorer_of(
    index: TargetingIndex, people: Population, campaigns: Sequence[Campaign], scores: Scores
) -> Scorer:
    """What users are asked for.

    Raises:
        UnknownIdError: an item or seed user that is not stored; the campaign is named.
        ConfigError: a rule over items that does not fit or matches none, a vector of another length.
    """
    centre = people.vectors(people.sample).mean(axis=0, dtype=np.float64).astype(np.float32)
    items = [target_items(index, campaign) for campaign in campaigns]
    vectors, levels = np.empty((len(campaigns), people.dim), np.float32), np.zeros(len(campaigns), np.float32)
    for row, campaign in enumerate(campaigns):
        if len(items[row][0]):
            vectors[row] = items[row][1].mean(axis=0)
            continue
        if campaign.vector:
            vectors[row] = _point(people, campaign)
        else:
            vectors[row] = people.vectors(seed_rows(people, campaign)).mean(axis=0) - centre
        levels[row] = -(vectors[row] @ centre)
    rates = people.rates if scores == "log-intensity" else None
    return Scorer(vectors, levels, items, scores == "probability", rates)


def target_items(index: TargetingIndex, campaign: Campaign) -> tuple[list[str], np.ndarray]:
    """Ids and vectors float32 [N, D] of the items that a campaign is for; none where it is for likeness.

    Raises:
        UnknownIdError, ConfigError: see `scorer_of`.
    """
    if not campaign.items and campaign.items_where is None:
        return [], np.empty((0, 0), np.float32)
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
    width, given = people.dim, len(campaign.vector)
    if not 0 < given <= width:
        raise ConfigError(f"campaign '{campaign.id}': vector has {given} values, and users have {width}")
    return np.pad(np.array(campaign.vector, np.float32), (0, width - given))


def seed_rows(people: Population, campaign: Campaign) -> np.ndarray:
    """Rows int64 of a campaign's seed users.

    Raises:
        UnknownIdError: one is not stored; near ones are suggested.
    """
    seeds = list(campaign.seed_users)
    places = people.places(seeds)
    rows = np.flatnonzero(places >= 0)
    if len(rows) < len(seeds):
        missing = seeds[int(np.setdiff1d(np.arange(len(seeds)), places)[0])]
        near = suggestion(missing, people.ids.to_pylist())
        raise UnknownIdError(f"campaign '{campaign.id}': seed user '{missing}' is not stored{near}")
    return rows


def lift(values: np.ndarray, likely: float, calibrated: bool) -> np.ndarray:
    """How many times as likely as the average user, float64, from probabilities or their logarithms.

    Args:
        likely: `average` of the population.
    """
    return values / max(likely, np.finfo(float).tiny) if calibrated else np.exp(values - likely)


def average(values: np.ndarray, calibrated: bool) -> float:
    """How likely the average of some users is: a probability, or a logarithm of one where values are those."""
    values = np.asarray(values, np.float64)
    if calibrated:
        return float(values.mean())
    highest = values.max()
    return float(highest + np.log(np.exp(values - highest).mean()))
