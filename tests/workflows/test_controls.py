"""The controls against loops that encode one history at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from small_worlds import synthetic_log

from duality.data.dataset import Dataset
from duality.data.importing import import_events
from duality.data.splits import leave_one_out
from duality.encoders.base import Layout
from duality.encoders.transformer import TransformerConfig
from duality.errors import InputError
from duality.evaluation.pools import ALL, TIME_MATCHED
from duality.evaluation.queries import DIRECTIONS, ITEM_TO_USER, USER_TO_ITEM, Queries, World, make_queries
from duality.evaluation.ranking import Scorer, rank_full
from duality.generated import group_of
from duality.model.two_sided import ModelConfig, TwoSided
from duality.workflows.controls import (
    Blend,
    LogOdds,
    MeanOfUsers,
    Recency,
    Recent,
    Shared,
    ShuffledItems,
    Transposed,
    best_of,
    choose_recency,
    standardised,
)
from duality.workflows.pooling import log_odds
from duality.workflows.scorers import ItemEncoderScorer, ModelScorer, States
from duality.workflows.train import world_of

UNTRAINED = 3  # a row of the table that means nothing
HISTORY = 4


@dataclass
class Case:
    """A log, the test queries for users, and states of a model that has never been trained."""

    dataset: Dataset
    world: World
    queries: Queries
    states: States

    @property
    def model(self) -> TwoSided:
        return self.states.model

    def user(self, user: int, moment: int) -> torch.Tensor:
        """The user strictly before a moment, encoded alone."""
        past = (
            self.world.visible
            & (self.dataset.event_user == user)
            & (np.asarray(self.dataset.event_time) < moment)
        )
        return self._encode(np.flatnonzero(past), self.states.vectors)

    def users_of_item(self, item: int, moment: int) -> tuple[list[int], list[torch.Tensor]]:
        """Events and users of an item before a moment in time order, each user as they came."""
        time = np.asarray(self.dataset.event_time)
        met = self.world.visible & (self.dataset.event_item == item) & (time < moment)
        events = sorted(np.flatnonzero(met), key=lambda event: time[event])
        return events, [self._before(event) for event in events]

    def _before(self, event: int) -> torch.Tensor:
        earlier = np.arange(self.dataset.user_indptr[self.dataset.event_user[event]], event)
        return self._encode(earlier[self.world.visible[earlier]], self.model.item_table)

    @torch.inference_mode()
    def _encode(self, events: np.ndarray, vectors: torch.Tensor) -> torch.Tensor:
        if not len(events):
            return self.model.empty_user
        items = torch.from_numpy(self.dataset.event_item[events].astype(np.int64))
        return self.model.user_states(vectors[items], Layout(np.array([len(events)])))[-1]


def untrained(dataset: Dataset, world: World, *, learned: bool) -> States:
    """States of a random network; with `learned`, G is not the centred mean that it starts as."""
    torch.manual_seed(1)
    encoder = TransformerConfig(hidden=8)
    config = ModelConfig(dim=8, user_encoder=encoder, item_encoder=encoder, item_history=HISTORY)
    model = TwoSided(dataset.num_items, config).eval()
    with torch.no_grad():
        model.population_mean.copy_(torch.randn(8) / 3)
        model.item_table.mul_(3)
        model.trained[UNTRAINED] = False
        if learned:
            model.item_head.weight.normal_()
    return States(model, dataset, world.visible)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("controls") / "d"
    import_events(synthetic_log(users=30, items=20), folder)
    return Dataset.open(folder)


def case_of(dataset: Dataset, *, learned: bool = True) -> Case:
    split = leave_one_out(dataset)
    world = world_of(dataset, split, "test")
    queries = make_queries(world, split.test, ITEM_TO_USER)
    return Case(dataset, world, queries, untrained(dataset, world, learned=learned))


@pytest.fixture(scope="module")
def case(dataset: Dataset) -> Case:
    return case_of(dataset)


def whole(queries: Queries) -> slice:
    return slice(0, len(queries))


def expected_scores(case: Case, vector: Callable[[int, int], torch.Tensor], *, log_p: bool) -> np.ndarray:
    """<vector of the query, u> (minus log Z(u) with `log_p`) by one user and one query at a time."""
    rows = []
    for item, moment in zip(case.queries.item, case.queries.time, strict=True):
        states = torch.stack([case.user(user, moment) for user in range(case.dataset.num_users)])
        scores = states @ vector(item, moment)
        rows.append(scores - case.model.log_partition(states) if log_p else scores)
    return torch.stack(rows).detach().numpy()


def test_transposed_is_the_inner_product_alone(case: Case) -> None:
    table = case.model.item_table
    found = Transposed(case.states).score(case.queries, whole(case.queries), ITEM_TO_USER)
    expected = expected_scores(case, lambda item, _: table[item], log_p=False)
    trained = case.queries.item != UNTRAINED
    np.testing.assert_allclose(found[trained], expected[trained], atol=1e-4)
    model = ModelScorer(case.states).score(case.queries, whole(case.queries), ITEM_TO_USER)
    assert np.abs(found - model).max() > 0.1


def test_transposed_ranks_items_as_the_model_does(case: Case) -> None:
    queries = make_queries(case.world, leave_one_out(case.dataset).test, USER_TO_ITEM)
    scorers = Transposed(case.states), ModelScorer(case.states)
    bare, model = (scorer.score(queries, whole(queries), USER_TO_ITEM) for scorer in scorers)
    # Of items that training never saw the partition counts less: what is left of it moves them.
    difference = (bare - model)[:, case.model.trained.numpy()]
    np.testing.assert_allclose(difference, difference[:, :1].repeat(difference.shape[1], 1), atol=1e-4)
    assert difference.min() > 0


def test_the_mean_of_users_is_the_mean_of_users_as_they_came(case: Case) -> None:
    def mean(item: int, moment: int) -> torch.Tensor:
        _, users = case.users_of_item(item, moment)
        return torch.stack(users).mean(0) if users else torch.zeros(8)

    found = MeanOfUsers(case.states).score(case.queries, whole(case.queries), ITEM_TO_USER)
    np.testing.assert_allclose(found, expected_scores(case, mean, log_p=False), atol=1e-4)


def test_log_odds_weigh_trained_items_by_log_odds_against_the_population(case: Case) -> None:
    model = case.model
    table = model.item_table.detach()[model.trained]

    def weights(item: int, moment: int) -> torch.Tensor:
        _, users = case.users_of_item(item, moment)
        if not users:
            return torch.full((len(table),), 1 / len(table))
        log_p = torch.stack([(table @ user).log_softmax(0) for user in users]).mean(0)
        return (log_p - (table @ model.population_mean).log_softmax(0)).softmax(0)

    found = LogOdds(case.states).score(case.queries, whole(case.queries), ITEM_TO_USER)
    expected = expected_scores(case, lambda item, moment: weights(item, moment) @ table, log_p=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_log_odds_point_at_the_item_that_its_users_are_about_to_choose(case: Case) -> None:
    """A mean state far along one item's vector puts the weight on that item."""
    pool, items = log_odds(case.states), case.states.items[[0, 7], :8]
    far = case.model.population_mean.numpy() + 50 * items
    np.testing.assert_allclose(pool(far, np.array([2, 1])), items, atol=1e-3)


def test_shuffled_items_hold_the_users_that_the_item_encoder_sees(case: Case) -> None:
    """Windows of 4 overlap by half: of n users the newest 3 or 4, all while there are no more than 4."""
    shuffled = ShuffledItems(case.states).shuffled(case.queries, whole(case.queries))
    moved = 0
    for q, (item, moment) in enumerate(zip(case.queries.item, case.queries.time, strict=True)):
        events, _ = case.users_of_item(item, moment)
        kept = len(events) if len(events) <= HISTORY else 4 - len(events) % 2
        mine = shuffled.event[shuffled.indptr[q] : shuffled.indptr[q + 1]].tolist()
        assert sorted(mine) == sorted(events[len(events) - kept :])
        moved += mine != events[len(events) - kept :]
    assert moved > len(case.queries) / 3
    assert case.states.known_users(case.queries, whole(case.queries)).max() > HISTORY + 2


def test_order_means_nothing_to_a_mean(dataset: Dataset) -> None:
    """G starts as the centred mean of its window: there the shuffled control is the item encoder."""
    case = case_of(dataset, learned=False)
    shuffled, ordered = (
        scorer.score(case.queries, whole(case.queries), ITEM_TO_USER)
        for scorer in (ShuffledItems(case.states), ItemEncoderScorer(case.states))
    )
    np.testing.assert_allclose(shuffled, ordered, atol=1e-4)


def test_shuffled_items_are_the_item_encoder_on_the_shuffled_users(case: Case) -> None:
    control = ShuffledItems(case.states, seed=3)
    histories = control.shuffled(case.queries, whole(case.queries))

    @torch.inference_mode()
    def vector(q: int) -> torch.Tensor:
        events = histories.event[histories.indptr[q] : histories.indptr[q + 1]]
        if not len(events):
            return case.model.empty_item[:8]
        users = torch.stack([case._before(event) for event in events])
        return case.model.item_states(users, Layout(np.array([len(events)])))[-1, :8]

    place = {(item, moment): q for q, (item, moment) in enumerate(zip(case.queries.item, case.queries.time))}
    found = control.score(case.queries, whole(case.queries), ITEM_TO_USER)
    weights = case.states.made[2][group_of(case.states.known_users(case.queries, whole(case.queries)))]
    preference = expected_scores(case, lambda item, moment: vector(place[item, moment]), log_p=False)
    log_p = expected_scores(case, lambda item, moment: vector(place[item, moment]), log_p=True)
    slope, partition, level = weights.T[:, :, None]
    expected = slope * preference + partition * (log_p - preference) + level
    np.testing.assert_allclose(found, expected, atol=1e-4)
    ordered = ItemEncoderScorer(case.states).score(case.queries, whole(case.queries), ITEM_TO_USER)
    assert np.abs(found - ordered).max() > 0.1
    other = ShuffledItems(case.states, seed=4).score(case.queries, whole(case.queries), ITEM_TO_USER)
    assert np.abs(found - other).max() > 0.1


CONTROLS: list[Callable[[States], Scorer]] = [Transposed, MeanOfUsers, LogOdds, ShuffledItems]


@pytest.mark.parametrize("control", CONTROLS)
def test_nothing_at_or_after_the_query_moves_a_score(case: Case, control: Callable[[States], Scorer]) -> None:
    scorer = control(case.states)
    together = scorer.score(case.queries, whole(case.queries), ITEM_TO_USER)
    for q in range(0, len(case.queries), 5):
        before = case.world.visible & (np.asarray(case.dataset.event_time) < case.queries.time[q])
        past = States(case.model, case.dataset, before)
        # A generated item is what its users made of it until now: that is the model's, not the control's.
        past.made = case.states.made
        alone = control(past).score(case.queries, slice(q, q + 1), ITEM_TO_USER)
        np.testing.assert_allclose(alone[0], together[q], atol=1e-4)


@pytest.mark.parametrize("control", [MeanOfUsers, LogOdds, ShuffledItems])
def test_controls_of_the_item_say_that_they_find_users_only(
    case: Case, control: Callable[[States], Scorer]
) -> None:
    with pytest.raises(InputError, match="answers item-to-user only"):
        control(case.states).score(case.queries, slice(0, 1), USER_TO_ITEM)


def test_recency_counts_seconds_since_the_last_event_before(case: Case) -> None:
    found = Recency(case.world).score(case.queries, whole(case.queries), ITEM_TO_USER)
    time = np.asarray(case.dataset.event_time)
    for q, moment in enumerate(case.queries.time):
        for user in range(case.dataset.num_users):
            past = time[case.world.visible & (case.dataset.event_user == user) & (time < moment)]
            expected = -np.log(1 + (moment - past.max()) / 1e6) if len(past) else -np.inf
            assert found[q, user] == pytest.approx(expected, rel=1e-12)


@dataclass
class Fixed:
    """The same scores for whatever is asked."""

    scores: np.ndarray
    name: str = "fixed"

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        return self.scores[rows]


def test_recent_adds_the_weighted_recency_and_nothing_at_weight_0(case: Case) -> None:
    inner, recency = Fixed(np.array([[1.0, 2.0, 3.0]])), Fixed(np.array([[-4.0, -np.inf, -1.0]]))
    found = [Recent(inner, recency, w).score(case.queries, slice(0, 1), ITEM_TO_USER) for w in (0, 0.5)]
    np.testing.assert_array_equal(found[0], [[1, 2, 3]])
    np.testing.assert_array_equal(found[1], [[-1, -np.inf, 2.5]])
    assert Recent(inner, recency, 0.5).name == "fixed+recency"


@dataclass
class OfTarget:
    """1 for the target, 0 for everyone else; counts how often it was asked."""

    sign: float
    name: str = "of_target"
    asked: int = 0

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        self.asked += 1
        users = np.arange(30)
        return self.sign * (users == queries.targets(direction)[rows][:, None]).astype(float)


def test_the_weight_of_recency_is_chosen_on_validation(case: Case) -> None:
    """A perfect scorer needs none; of one that is exactly wrong, the more the better."""
    for pool in (ALL, TIME_MATCHED):
        choose = [
            choose_recency(scorer, case.world, case.queries, metric="auc", pool=pool, weights=(0, 0.1, 30.0))
            for scorer in (OfTarget(1.0), OfTarget(-1000.0), OfTarget(0.0))
        ]
        assert choose[0] == 0
        assert choose[1] == 0
        assert choose[2] == 0.1


def test_choosing_asks_the_inner_scorer_once_per_block(case: Case) -> None:
    scorer = OfTarget(1.0)
    choose_recency(scorer, case.world, case.queries, pool=ALL)
    assert scorer.asked == 2  # for one query, so that it has made what it keeps, and for the one block


def test_what_cannot_choose_is_said(case: Case) -> None:
    scorer = OfTarget(1.0)
    with pytest.raises(
        InputError, match="no pool 'everyone' for item-to-user on this log: choose all or time"
    ):
        choose_recency(scorer, case.world, case.queries, pool="everyone")
    none = make_queries(case.world, np.array([], np.int64), ITEM_TO_USER)
    with pytest.raises(InputError, match="no validation query is left"):
        best_of([scorer], case.world, none, ITEM_TO_USER, metric="auc", pool=ALL)
    untimed = World(**{**vars(case.world), "event_time": None})
    with pytest.raises(InputError, match="no time"):
        choose_recency(scorer, untimed, case.queries)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_blend_of_weight_0_or_1_is_one_of_its_parts(case: Case, direction: str) -> None:
    queries = make_queries(case.world, leave_one_out(case.dataset).test, direction)
    a, b = Transposed(case.states), ModelScorer(case.states)
    parts = [rank_full(scorer, queries, case.world, direction)[0] for scorer in (a, b)]
    ends = [rank_full(Blend(a, b, weight), queries, case.world, direction)[0] for weight in (0, 1)]
    np.testing.assert_array_equal(ends, parts)


def test_a_blend_standardises_so_that_scales_do_not_matter(case: Case) -> None:
    @dataclass
    class Scaled:
        inner: Scorer
        name: str = "scaled"

        def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
            return 1000 * self.inner.score(queries, rows, direction) + 7

    a, b, rows = Transposed(case.states), MeanOfUsers(case.states), whole(case.queries)
    found = Blend(a, b, 0.3).score(case.queries, rows, ITEM_TO_USER)
    scaled = Blend(a, Scaled(b), 0.3).score(case.queries, rows, ITEM_TO_USER)
    # Of an item without users all scores are equal up to rounding, which a scale makes visible.
    some = case.states.known_users(case.queries, rows) > 0
    np.testing.assert_allclose(found[some], scaled[some], atol=1e-3)
    z = [stats.zscore(x.score(case.queries, rows, ITEM_TO_USER).astype(float), axis=1)[some] for x in (a, b)]
    np.testing.assert_allclose(found[some], 0.7 * z[0] + 0.3 * z[1], atol=1e-5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        Blend(a, b, 1.5)


def test_standardising_keeps_infinities_and_constants() -> None:
    found = standardised(np.array([[1.0, 3.0, -np.inf], [2.0, 2.0, 2.0], [-np.inf] * 3]))
    np.testing.assert_array_equal(found, [[-1, 1, -np.inf], [0, 0, 0], [-np.inf] * 3])


def test_a_shared_scorer_forgets_the_block_before(case: Case) -> None:
    inner = Transposed(case.states)
    shared = Shared(inner)
    for rows in (slice(0, 3), slice(0, 3), slice(3, 5), slice(0, 3)):
        np.testing.assert_array_equal(
            shared.score(case.queries, rows, ITEM_TO_USER), inner.score(case.queries, rows, ITEM_TO_USER)
        )
