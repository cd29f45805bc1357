"""What every encoder promises: packing, causality, prefixes, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from duality.encoders import attention
from duality.encoders.base import Encoder, Layout, prefix_states, states_at
from duality.encoders.positions import rotate, rotations
from duality.encoders.registry import ENCODERS, EncoderConfig, make_encoder
from duality.encoders.times import buckets
from duality.encoders.transformer import Transformer
from duality.errors import ConfigError

DIM = 16
lengths_lists = st.lists(st.integers(1, 12), min_size=1, max_size=6)


LONG = 9  # rows that a state of an encoder with a limit sees


def made(name: str, **settings: object) -> Encoder:
    torch.manual_seed(0)
    config = TypeAdapter(EncoderConfig).validate_python({"name": name, **settings})
    return make_encoder(DIM, config).eval()


@pytest.fixture(
    scope="module", params=[*ENCODERS, "hstu, sliding", "hstu, slots", "hstu, oldest", "sasrec, oldest"]
)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "hstu, sliding":
        return made("hstu", max_length=LONG, sliding=True)
    if ", " in request.param:
        name, positions = request.param.split(", ")
        return made(name, max_length=LONG, positions=positions)
    limited = {"sasrec": LONG, "hstu": LONG, "denoiser": LONG, "bert4rec": LONG + 1}
    return made(request.param, **({"max_length": limited[request.param]} if request.param in limited else {}))


@given(lengths_lists, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_packed_equals_one_at_a_time(encoder: Encoder, lengths: list[int], seed: int) -> None:
    layout = Layout(np.array(lengths))
    rows = torch.randn(layout.num_rows, DIM, generator=torch.Generator().manual_seed(seed))
    packed = encoder(rows, layout)
    alone = torch.cat([encoder(part, Layout(np.array([len(part)]))) for part in rows.split(lengths)])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


@given(st.integers(2, 30), st.data())
@settings(max_examples=30, deadline=None)
def test_a_state_is_the_state_of_its_prefix_or_says_that_it_is_not(
    encoder: Encoder, length: int, data: st.DataObject
) -> None:
    length = min(length, encoder.max_length or length)
    rows = torch.randn(length, DIM, generator=torch.Generator().manual_seed(length))
    whole = encoder(rows, Layout(np.array([length])))
    cut = data.draw(st.integers(1, length))
    prefix = encoder(rows[:cut], Layout(np.array([cut])))
    if encoder.prefix_invariant:
        torch.testing.assert_close(whole[:cut], prefix, atol=1e-5, rtol=0)
    elif cut < length:
        assert not torch.allclose(whole[:cut], prefix, atol=1e-4)


@given(lengths_lists, st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_prefix_states_are_those_of_each_prefix_alone(
    encoder: Encoder, lengths: list[int], seed: int
) -> None:
    layout = Layout(np.array(lengths))
    rows = torch.randn(layout.num_rows, DIM, generator=torch.Generator().manual_seed(seed))
    found, expected = prefix_states(encoder, rows, layout, block=20), []
    for part in rows.split(lengths):
        expected += [encoder(part[:n], Layout(np.array([n])))[-1] for n in range(1, len(part) + 1)]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)
    some = np.random.default_rng(seed).integers(layout.num_rows, size=5)
    asked = prefix_states(encoder, rows, layout, some, block=20)
    torch.testing.assert_close(asked, torch.stack(expected)[some], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "limit"), [("sasrec", LONG), ("hstu", LONG), ("denoiser", LONG), ("bert4rec", LONG + 1)]
)
def test_what_lies_further_back_than_the_limit_is_not_seen(name: str, limit: int) -> None:
    limited, rows = made(name, max_length=limit), torch.randn(30, DIM)
    states = limited(rows, Layout(np.array([30])))
    newest = limited(rows[-LONG:], Layout(np.array([LONG])))
    torch.testing.assert_close(states[-LONG:], newest, atol=1e-5, rtol=0)
    assert Layout(np.array([30, 4, 9])).cut(9).lengths.tolist() == [3, 9, 9, 9, 4, 9]


@given(st.integers(2, 20), st.data())
@settings(max_examples=30, deadline=None)
def test_a_later_row_changes_no_earlier_state(encoder: Encoder, length: int, data: st.DataObject) -> None:
    rows = torch.randn(length, DIM, generator=torch.Generator().manual_seed(length))
    changed = rows.clone()
    length = min(length, encoder.max_length or length)
    rows = rows[:length]
    changed = rows.clone()
    at = data.draw(st.integers(1, length - 1))
    changed[at:] = -rows[at:]
    layout = Layout(np.array([length]))
    before, after = (prefix_states(encoder, some, layout) for some in (rows, changed))
    torch.testing.assert_close(before[:at], after[:at], atol=0 if encoder.causal else 1e-6, rtol=0)
    assert not torch.allclose(before[at:], after[at:])


def test_the_order_of_rows_matters(encoder: Encoder) -> None:
    rows = torch.randn(6, DIM)
    layout = Layout(np.array([6]))
    swapped = rows[[1, 0, 2, 3, 4, 5]]
    assert not torch.allclose(encoder(rows, layout)[-1], encoder(swapped, layout)[-1], atol=1e-4)


@given(st.integers(0, 500), st.integers(0, 4000), st.integers(0, 4000))
@settings(max_examples=50, deadline=None)
def test_the_kth_most_recent_event_has_one_positional_term(back: int, first: int, second: int) -> None:
    query, key = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)), torch.ones(1, 8)

    def product(at: int) -> torch.Tensor:
        turned = [rotate(x, rotations(torch.tensor([p]), 8)) for x, p in ((query, at + back), (key, at))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(first), product(second), atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter_and_row(encoder: Encoder) -> None:
    rows = torch.randn(7, DIM, requires_grad=True)
    loss = encoder(rows, Layout(np.array([3, 4]), np.arange(7) * 60_000_000)).square().sum()
    if encoder.noisy:
        encoder.draw()
        loss = loss + encoder.penalty(torch.tensor(1.0))
    loss.backward()
    assert rows.grad is not None
    assert (rows.grad.abs().sum(1) > 0).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    encoder.zero_grad()


def test_layout_describes_runs_of_equal_length() -> None:
    layout = Layout(np.array([2, 2, 5, 2]))
    assert layout.runs == [(0, 2, 2), (4, 1, 5), (9, 1, 2)]
    assert layout.positions.tolist() == [0, 1, 0, 1, 0, 1, 2, 3, 4, 0, 1]
    assert layout.last_rows.tolist() == [1, 3, 8, 10]
    with pytest.raises(ValueError):
        Layout(np.array([1, 0]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_agrees_with_cpu(encoder: Encoder) -> None:
    rows, layout = torch.randn(50, DIM), Layout(np.array([1, 1, 20, 28]))
    there = encoder.to("cuda")(rows.cuda(), layout).cpu()
    torch.testing.assert_close(encoder.to("cpu")(rows, layout), there, atol=1e-3, rtol=1e-3)


def test_shuffled_positions_stay_in_their_sequence_and_keep_none_of_its_order() -> None:
    shuffled = made("transformer", hidden=24, positions="shuffled")
    layout = Layout(np.array([200, 3, 200]))
    assert isinstance(shuffled, Transformer)
    positions = shuffled.positions_of(layout, torch.device("cpu")).numpy()
    for part, length in zip(np.split(positions, layout.offsets[1:-1]), layout.lengths, strict=True):
        assert sorted(part) == list(range(length))
    first = positions[:200]
    assert abs(np.corrcoef(first, np.arange(200))[0, 1]) < 0.3
    assert not np.array_equal(first, positions[-200:])
    rows = torch.randn(layout.num_rows, DIM)
    assert torch.equal(shuffled(rows, layout), shuffled(rows, layout))


def test_a_long_sequence_in_blocks_is_the_same_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hstu = made("hstu", max_length=60)
    rows, layout = torch.randn(65, DIM, requires_grad=True), Layout(np.array([50, 15]))
    whole = hstu(rows, layout)
    (gradient,) = torch.autograd.grad(whole.square().sum(), rows)
    monkeypatch.setattr(attention, "AT_ONCE", 7)
    monkeypatch.setattr(attention, "BLOCK", 7)
    parts = hstu(rows, layout)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad(parts.square().sum(), rows)[0], gradient, atol=1e-6, rtol=0
    )


def test_attention_drops_weights_in_training_and_its_mean_is_that_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "AT_ONCE", 4)
    monkeypatch.setattr(attention, "BLOCK", 4)
    torch.manual_seed(0)
    query_key, value, layout = torch.randn(10, 2, 2, 4), torch.randn(10, 2, 4), Layout(np.array([9, 1]))
    plain = attention.packed_attention(query_key, value, layout)
    draws = torch.stack(
        [attention.packed_attention(query_key, value, layout, share=0.3) for _ in range(1000)]
    )
    assert draws.std(0).min() > 0
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - plain).abs() < 5 * error + 1e-6).all()


def test_an_encoder_that_is_not_causal_says_so(encoder: Encoder) -> None:
    rows, layout = torch.randn(6, DIM), Layout(np.array([6]))
    changed = torch.cat((rows[:-1], -rows[-1:]))
    alike = torch.allclose(encoder(rows, layout)[:-1], encoder(changed, layout)[:-1], atol=1e-5)
    assert alike == encoder.causal


def test_a_hidden_row_is_found_from_both_sides_and_not_from_itself() -> None:
    encoder, layout, hidden = made("bert4rec"), Layout(np.array([5, 3])), np.array([1, 6])
    rows = torch.randn(8, DIM)

    def found(at: int) -> torch.Tensor:
        changed = rows.clone()
        changed[at] *= -1
        return encoder.masked(changed, layout, hidden)

    plain = encoder.masked(rows, layout, hidden)
    assert plain.shape == (2, DIM)
    torch.testing.assert_close(found(1), plain)
    for at in (0, 4):
        assert not torch.allclose(found(at)[0], plain[0], atol=1e-4)
        torch.testing.assert_close(found(at)[1], plain[1], atol=1e-6, rtol=0)


def test_states_at_some_rows_are_those_of_their_prefixes(encoder: Encoder) -> None:
    rows, layout, wanted = torch.randn(14, DIM), Layout(np.array([5, 9])), np.array([3, 13, 0, 7])
    found = states_at(encoder, rows, layout, wanted)
    torch.testing.assert_close(found, prefix_states(encoder, rows, layout)[wanted], atol=1e-5, rtol=0)


def test_how_long_ago_a_row_happened_counts_in_hstu() -> None:
    encoder, rows, lengths = made("hstu", num_blocks=1), torch.randn(5, DIM), np.array([3, 2])
    second = 1_000_000
    times = np.array([0, 10, 20, 5, 7]) * second
    plain = encoder(rows, Layout(lengths, times))
    later = encoder(rows, Layout(lengths, times + 12_345 * second))
    torch.testing.assert_close(later, plain)  # what counts is how long ago
    spread = encoder(rows, Layout(lengths, np.array([0, 10, 900, 5, 7]) * second))
    changed = (spread - plain).abs().amax(1) > 1e-6
    assert changed.tolist() == [False, False, True, False, False]
    asked = encoder(rows, Layout(lengths, times, times + 90 * second))
    assert ((asked - plain).abs().amax(1) > 1e-6).all()
    assert buckets(torch.tensor([0, second, -second, 2 * second, 10**15]), 9).tolist() == [0, 0, 0, 2, 9]


def test_a_part_of_a_layout_keeps_its_times() -> None:
    layout = Layout(np.array([2, 3, 1]), np.arange(6) * 10)
    part = layout.part(1, 3)
    assert part.lengths.tolist() == [3, 1]
    assert part.times is not None
    assert part.times.tolist() == [20, 30, 40, 50]
    assert part.asked is None


def test_padding_attends_only_where_a_control_asks_for_it() -> None:
    rows, layout = torch.randn(8, DIM), Layout(np.array([3, 5]))
    plain, slots, pads = (made("sasrec", max_length=LONG, padding=kind) for kind in ("none", "slots", "rows"))
    for control in (slots, pads):
        control.load_state_dict(plain.state_dict(), strict=False)
        states = control(rows, layout)
        assert not torch.allclose(states, plain(rows, layout), atol=1e-3)
        # By hand: one sequence of full length whose first rows are the padding.
        whole = torch.cat((control.pad.expand(LONG - 3, -1), rows[:3]))
        torch.testing.assert_close(states[:3], plain(whole, Layout(np.array([LONG])))[-3:])
    assert slots.pad.abs().max() == 0
    full = torch.randn(LONG, DIM)
    torch.testing.assert_close(pads(full, Layout(np.array([LONG]))), plain(full, Layout(np.array([LONG]))))


def test_positions_of_a_prediction_make_every_prefix_a_sequence() -> None:
    original, corrected = (
        made("sasrec", max_length=LONG, positions=kind) for kind in ("slots", "prediction")
    )
    none = made("sasrec", max_length=LONG, positions="none")
    assert original.causal
    assert not corrected.causal
    assert not corrected.prefix_invariant
    assert none.prefix_invariant
    rows, layout = torch.randn(6, DIM), Layout(np.array([6]))
    corrected.load_state_dict(original.state_dict())
    states = states_at(corrected, rows, layout, np.arange(6))
    for length in range(1, 7):
        alone = original(rows[:length], Layout(np.array([length])))[-1]
        torch.testing.assert_close(states[length - 1], alone)


def test_positions_from_the_oldest_are_slots_where_nothing_is_empty() -> None:
    slots, oldest = (made("sasrec", max_length=LONG, positions=kind) for kind in ("slots", "oldest"))
    oldest.load_state_dict(slots.state_dict())
    rows, full = torch.randn(LONG + 3, DIM), Layout(np.array([LONG]))
    torch.testing.assert_close(oldest(rows[-LONG:], full), slots(rows[-LONG:], full))
    # Of a history that is too long the newest count, from the oldest of them.
    torch.testing.assert_close(oldest(rows, Layout(np.array([LONG + 3])))[-LONG:], oldest(rows[-LONG:], full))
    short = Layout(np.array([LONG - 2]))
    assert not torch.allclose(oldest(rows[: LONG - 2], short), slots(rows[: LONG - 2], short), atol=1e-3)


@pytest.mark.parametrize("kind", ["slots", "oldest"])
def test_published_positions_of_hstu_are_learned_rows_added_to_what_it_reads(kind: str) -> None:
    placed, bare = made("hstu", max_length=LONG, positions=kind), made("hstu", max_length=LONG)
    learned = placed.get_parameter("slots.weight")
    bare.load_state_dict({n: p for n, p in placed.state_dict().items() if n != "slots.weight"})
    rows, layout = torch.randn(LONG + 6, DIM), Layout(np.array([LONG + 2, 4]))
    begins = LONG - 4 if kind == "slots" else 0
    place = {"slots": [LONG - 2, LONG - 1], "oldest": [0, 1]}[kind]  # two rows that a state does not see
    place = [*place, *range(LONG), *range(begins, begins + 4)]
    torch.testing.assert_close(placed(rows, layout), bare(rows + learned[place], layout))
    with pytest.raises(ConfigError, match="sliding has none"):
        made("hstu", sliding=True, positions=kind)


@pytest.mark.parametrize("name", list(ENCODERS))
def test_dimensions_that_heads_do_not_divide_are_refused_in_words(name: str) -> None:
    config = TypeAdapter(EncoderConfig).validate_python({"name": name, "num_heads": 3})
    with pytest.raises(ConfigError, match=rf"model.dim and model.user_encoder \({name}\): dim 16 must be"):
        make_encoder(DIM, config, "model.user_encoder")
