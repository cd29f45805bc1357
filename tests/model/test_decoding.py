"""Continuations: the cache against encoding again, the methods against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from duality.encoders.base import Layout
from duality.encoders.sasrec import SASRec, SASRecConfig
from duality.encoders.transformer import Transformer, TransformerConfig
from duality.errors import InputError
from duality.model.decoding import METHODS, Decoding, _drawn, continuations
from duality.model.incremental import Cached, Recomputed, continued
from duality.model.two_sided import ModelConfig, TwoSided

LENGTHS = np.array([1, 3, 3, 7])


def model_of(num_items: int, positions: str = "rotary") -> TwoSided:
    torch.manual_seed(0)
    encoder = TransformerConfig(hidden=16, positions=positions)
    model = TwoSided(num_items, ModelConfig(dim=16, user_encoder=encoder, item_encoder=encoder)).eval()
    with torch.no_grad():
        model.item_table.mul_(3)  # scores that differ enough for an order to mean something
    return model


def histories(num_items: int, lengths: np.ndarray = LENGTHS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return np.concatenate([rng.permutation(num_items)[:n] for n in lengths]), lengths


def run(model: TwoSided, asked: tuple[np.ndarray, np.ndarray], options: Decoding) -> dict:
    return continuations(model, model.item_table.detach(), stored(model), asked, options)


def stored(model: TwoSided) -> torch.Tensor:
    """Items of stored form [e, partition, level], of every partition and level."""
    ends = torch.linspace(-0.5, 0.5, len(model.item_table))
    partition, activity = 1 + ends.flip(0), torch.ones(len(ends))
    return torch.cat((model.item_table.detach(), torch.stack((partition, activity, ends), 1)), dim=1)


@pytest.mark.parametrize("positions", ["rotary", "none"])
def test_cached_states_are_those_of_the_whole_history(positions: str) -> None:
    torch.manual_seed(0)
    encoder = Transformer(16, TransformerConfig(hidden=16, positions=positions)).eval()
    rows, layout = torch.randn(int(LENGTHS.sum()), 16), Layout(LENGTHS)
    with torch.inference_mode():
        cached, plain = Cached(encoder, rows, layout), Recomputed(encoder, rows, layout)
        torch.testing.assert_close(cached.last, plain.last)
        for step in range(4):
            added = torch.randn(4, 3, 16)
            torch.testing.assert_close(cached.extend(added), plain.extend(added), atol=2e-5, rtol=1e-4)
            parents = torch.randint(0, 3, (4, 3)) if step % 2 else torch.tensor([[2, 0, 0]]).repeat(4, 1)
            cached.keep(parents)
            plain.keep(parents)


@pytest.mark.parametrize("positions", ["oldest", "none"])
def test_histories_that_grow_beyond_what_is_seen_lose_their_oldest(positions: str) -> None:
    torch.manual_seed(0)
    encoder = SASRec(16, SASRecConfig(max_length=6, positions=positions)).eval()
    rows, added = torch.randn(5, 16), torch.randn(3, 16)
    with torch.inference_mode():
        grown = continued(encoder, rows, Layout(np.array([5])))
        for step, row in enumerate(added):
            found = grown.extend(row[None, None])[0, 0]
            newest = torch.cat((rows, added[: step + 1]))[-6:]
            torch.testing.assert_close(found, encoder(newest, Layout(np.array([6])))[-1])


def test_nothing_seen_or_generated_comes_again() -> None:
    model, asked = model_of(20), histories(20)
    lists = run(model, asked, Decoding(steps=(1, 4, 9), samples=6))
    starts = np.concatenate(([0], np.cumsum(asked[1])))
    for method, h in itertools.product(METHODS, (1, 4, 9)):
        for query in range(len(LENGTHS)):
            found = lists[method][h][query].tolist()
            assert len(set(found)) == h, method
            assert not set(found) & set(asked[0][starts[query] : starts[query + 1]].tolist()), method


def test_one_step_of_top_greedy_beam_and_ra_is_the_best_item() -> None:
    lists = run(model_of(20), histories(20), Decoding(steps=(1,), samples=3))
    for method in ("greedy", "beam", "ra"):
        np.testing.assert_array_equal(lists[method][1], lists["top"][1])


def sequences_with_chances(model: TwoSided, history: np.ndarray, steps: int) -> dict[tuple[int, ...], float]:
    """Every sequence of new items and its probability, by encoding each prefix from scratch."""
    num_items, ends = len(model.item_table), stored(model)[:, [-3, -1]].double()
    chances = {(): 1.0}
    for _ in range(steps):
        longer = {}
        for sequence, chance in chances.items():
            rows = torch.from_numpy(np.concatenate((history, np.array(sequence, dtype=np.int64))))
            with torch.no_grad():
                state = model.user_states(model.item_table[rows], Layout(np.array([len(rows)])))[-1]
                preference = (model.item_table @ state).double()
                scores = preference - preference.logsumexp(0) * ends[:, 0] + ends[:, 1]
            scores[rows] = -torch.inf
            probabilities = scores.softmax(0).tolist()
            allowed = set(range(num_items)) - set(rows.tolist())
            longer |= {(*sequence, item): chance * probabilities[item] for item in allowed}
        chances = longer
    return chances


def test_beam_wide_enough_finds_the_most_probable_sequence() -> None:
    model, history = model_of(9), np.array([2, 5])
    truth = sequences_with_chances(model, history, 3)
    lists = run(model, (history, np.array([2])), Decoding(steps=(3,), beam=100, samples=1))
    assert tuple(lists["beam"][3][0].tolist()) == max(truth, key=lambda s: truth[s])


def test_greedy_takes_the_best_item_of_each_step() -> None:
    model, history = model_of(9), np.array([2, 5])
    lists = run(model, (history, np.array([2])), Decoding(steps=(1, 3), samples=1))
    sequence: tuple[int, ...] = ()
    for _ in range(3):
        first = sequences_with_chances(model, np.concatenate((history, np.array(sequence, int))), 1)
        sequence += max(first, key=lambda s: first[s])
    assert tuple(lists["greedy"][3][0].tolist()) == sequence
    assert lists["greedy"][1][0].tolist() == [sequence[0]]


def test_relevance_ranks_by_the_chance_to_come_within_the_horizon() -> None:
    model, history = model_of(8), np.array([2, 5])
    truth = sequences_with_chances(model, history, 3)
    within = np.array([sum(p for s, p in truth.items() if item in s) for item in range(8)])
    reciprocal = np.array(
        [sum(p / (s.index(item) + 1) for s, p in truth.items() if item in s) for item in range(8)]
    )
    lists = run(model, (history, np.array([2])), Decoding(steps=(3,), samples=20_000))
    assert lists["ra"][3][0].tolist() == np.argsort(-within)[:3].tolist()
    assert lists["rra"][3][0].tolist() == np.argsort(-reciprocal)[:3].tolist()


def test_draws_follow_the_chances_and_never_take_an_impossible_item() -> None:
    chances = torch.tensor([0.0, 0.5, 0.3, 0.2, 0.0]).expand(1, 200_000, 5).contiguous()
    drawn = _drawn(chances, torch.Generator().manual_seed(0))
    counts = np.bincount(drawn.flatten().numpy(), minlength=5)
    assert counts[0] == counts[4] == 0
    expected = 200_000 * np.array([0.5, 0.3, 0.2])
    assert ((counts[1:4] - expected) ** 2 / expected).sum() < 13.8  # chi-square, 2 degrees, p = .001


def test_same_seed_same_lists_whatever_the_order_of_users() -> None:
    model, asked = model_of(20), histories(20)
    first, second = (run(model, asked, Decoding(steps=(5,), seed=3)) for _ in range(2))
    np.testing.assert_array_equal(first["rra"][5], second["rra"][5])
    items = np.split(asked[0], np.cumsum(asked[1])[:-1])
    turned = run(model, (np.concatenate(items[::-1]), asked[1][::-1].copy()), Decoding(steps=(5,)))
    for method in ("top", "greedy", "beam"):
        np.testing.assert_array_equal(first[method][5], turned[method][5][::-1])


def test_more_steps_than_unseen_items_is_refused() -> None:
    with pytest.raises(InputError, match="fewer unseen items"):
        run(model_of(9), histories(9), Decoding(steps=(5,)))


@pytest.mark.parametrize("bad", [{"steps": ()}, {"steps": (0,)}, {"beam": 0}, {"temperature": 0.0}])
def test_options_out_of_range_are_refused(bad: dict) -> None:
    with pytest.raises(InputError):
        Decoding(**bad)
