"""Ours against the published modules: the same weights give the same states and the same gradients.

The fixtures hold float64 inputs, weights, states and gradients of the published code in evaluation mode, made by
running it at the commit that `source` names (SASRec's layer norms with the original's epsilon, 1e-8).
Lengths include 1 and more than the module's maximum, of which it sees the newest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from duality.encoders.base import Encoder, Layout
from duality.encoders.bert4rec import BERT4Rec, BERT4RecBlock, BERT4RecConfig
from duality.encoders.blocks import PostNormBlock
from duality.encoders.hstu import HSTU, HSTUBlock, HSTUConfig
from duality.encoders.sasrec import SASRec, SASRecConfig
from duality.encoders.transformer import Llama, LlamaConfig
from duality.encoders.vaswani import Vaswani, VaswaniConfig, sinusoids

FIXTURES = Path(__file__).parents[1] / "fixtures" / "encoders"
Fixture = dict[str, np.ndarray]


def newest(layout: Layout, most: int) -> Tensor:
    """Rows that the published module sees."""
    left = np.repeat(layout.lengths, layout.lengths) - layout.positions
    return torch.from_numpy(np.flatnonzero(left <= most))


def agree(encoder: Encoder, rows: Tensor, fixture: Fixture, named: dict[str, Tensor]) -> None:
    """States to 1e-9; gradients of a random sum of them too, of each parameter by its published name."""
    seconds = [fixture[key] * 1_000_000 if key in fixture else None for key in ("times", "asked")]
    layout = Layout(fixture["lengths"], *seconds)
    states = encoder(rows, layout)[newest(layout, int(fixture["max_length"]))]
    np.testing.assert_allclose(states.detach().numpy(), fixture["states"], atol=1e-9, rtol=0)
    (states * torch.from_numpy(fixture["weights_of_loss"])).sum().backward()
    assert {key.removeprefix("gradient/") for key in fixture if key.startswith("gradient/")} == set(named)
    for name, parameter in named.items():
        assert parameter.grad is not None
        expected = fixture[f"gradient/{name}"]
        if expected.ndim == 1 and parameter.grad.ndim == 1 and len(expected) > len(parameter.grad):
            # HSTU's table also has entries for rows ahead, which nothing sees; ours starts at 0 rows back.
            assert not expected[len(parameter.grad) :].any()
            expected = expected[: len(parameter.grad)][::-1]
        np.testing.assert_allclose(parameter.grad.numpy(), expected, atol=1e-9, rtol=1e-9, err_msg=name)


def fixture_of(name: str) -> Fixture:
    with np.load(FIXTURES / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def test_sasrec_is_the_original_block() -> None:
    fixture = fixture_of("sasrec")
    encoder = SASRec(8, SASRecConfig(num_heads=2, dropout=0.5, max_length=6)).double().eval()
    items = nn.Parameter(torch.from_numpy(fixture["weight/item_embedding.weight"]))
    names: dict[str, Tensor] = {
        "item_embedding.weight": items,
        "position_embedding.weight": encoder.slots.weight,
        "seq_norm.weight": encoder.norm.weight,
        "seq_norm.bias": encoder.norm.bias,
    }
    ours = {
        "first_norm": "attention_norm",
        "second_norm": "feed_forward_norm",
        "multihead_attention.query_proj": "query",
        "multihead_attention.key_proj": "key",
        "multihead_attention.val_proj": "value",
        "dense1": "feed_forward.project_in",
        "dense2": "feed_forward.project_out",
    }
    for number, block in enumerate(encoder.blocks):
        parameters = dict(block.named_parameters())
        for published, name in ours.items():
            for kind in ("weight", "bias"):
                names[f"transformer_blocks.{number}.{published}.{kind}"] = parameters[f"{name}.{kind}"]
    with torch.no_grad():
        for name, parameter in names.items():
            parameter.copy_(torch.from_numpy(fixture[f"weight/{name}"]))
    agree(encoder, items[torch.from_numpy(fixture["items"])], fixture, names)


def bert_names(encoder: BERT4Rec, words: Tensor) -> dict[str, Tensor]:
    """Our parameters by their published names, matrices transposed as they lie there."""
    named: dict[str, Tensor] = {
        "bert/embeddings/word_embeddings": words,
        "bert/embeddings/position_embeddings": encoder.slots.weight,
    }
    layers: dict[str, nn.Module] = {"cls/predictions/transform/dense": encoder.transform}
    norms: dict[str, nn.Module] = {
        "bert/embeddings/LayerNorm": encoder.input_norm,
        "cls/predictions/transform/LayerNorm": encoder.norm,
    }
    for number, block in enumerate(encoder.blocks):
        assert isinstance(block, BERT4RecBlock)
        layer = f"bert/encoder/layer_{number}"
        layers[f"{layer}/attention/self/value/dense"] = block.attention.value
        layers[f"{layer}/attention/output/dense"] = block.attention.project_out
        layers[f"{layer}/intermediate/dense"] = block.feed_forward.project_in
        layers[f"{layer}/output/dense"] = block.feed_forward.project_out
        norms[f"{layer}/attention/output/LayerNorm"] = block.attention_norm
        norms[f"{layer}/output/LayerNorm"] = block.feed_forward_norm
    for name, layer in layers.items():
        assert isinstance(layer, nn.Linear)
        name = name.removesuffix("/dense") if "self/value" in name else name
        named |= {f"{name}/kernel": layer.weight, f"{name}/bias": layer.bias}
    for name, norm in norms.items():
        assert isinstance(norm, nn.LayerNorm)
        named |= {f"{name}/gamma": norm.weight, f"{name}/beta": norm.bias}
    return named


def bert_value(fixture: Fixture, kind: str, name: str) -> Tensor:
    """A published weight or gradient as ours lies; what is added to every row is part of its position."""
    value = torch.from_numpy(fixture[f"{kind}/{name}"])
    if kind == "weight" and name.endswith("position_embeddings"):
        value = value + torch.from_numpy(fixture["weight/bert/embeddings/token_type_embeddings"][0])
    return value.T if name.endswith("kernel") else value


def bert_projections(encoder: BERT4Rec, fixture: Fixture, kind: str) -> list[tuple[Tensor, Tensor]]:
    """Queries and keys, which are one matrix here: ours, theirs."""
    pairs = []
    for number, block in enumerate(encoder.blocks):
        assert isinstance(block, BERT4RecBlock)
        layer, both = f"bert/encoder/layer_{number}/attention/self", block.attention.query_key
        for what, ours in (("kernel", both.weight), ("bias", both.bias)):
            halves = [bert_value(fixture, kind, f"{layer}/{part}/{what}") for part in ("query", "key")]
            pairs.append((ours, torch.cat(halves)))
    return pairs


@pytest.mark.parametrize("case", ["last", "hidden"])
def test_bert4rec_is_the_published_model(case: str) -> None:
    fixture = fixture_of("bert4rec")
    config = BERT4RecConfig(num_heads=2, hidden=12, max_length=int(fixture["max_length"]))
    encoder, layout = BERT4Rec(8, config).double().eval(), Layout(fixture["lengths"])
    words = torch.from_numpy(fixture["weight/bert/embeddings/word_embeddings"]).requires_grad_()
    named, mask = bert_names(encoder, words), int(fixture["mask"])
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(bert_value(fixture, "weight", name))
        for ours, theirs in bert_projections(encoder, fixture, "weight"):
            ours.copy_(theirs)
        encoder.mask.copy_(words[mask])
    rows = words[torch.from_numpy(fixture["items"])]
    if case == "last":
        states = encoder(rows, layout)[torch.from_numpy(layout.last_rows)]
    else:
        states = encoder.masked(rows, layout, fixture["hidden_rows"])
    np.testing.assert_allclose(states.detach().numpy(), fixture[f"{case}/states"], atol=1e-9, rtol=0)
    (states * torch.from_numpy(fixture[f"{case}/weights_of_loss"])).sum().backward()
    assert words.grad is not None
    assert encoder.mask.grad is not None
    words.grad[mask] += encoder.mask.grad  # theirs is a row of the table
    kind = f"{case}/gradient"
    for name, parameter in named.items():
        torch.testing.assert_close(parameter.grad, bert_value(fixture, kind, name), atol=1e-9, rtol=1e-9)
    for ours, theirs in bert_projections(encoder, fixture, kind):
        torch.testing.assert_close(ours.grad, theirs, atol=1e-9, rtol=1e-9)
    of_all = torch.from_numpy(fixture[f"{kind}/bert/embeddings/token_type_embeddings"][0])
    assert encoder.slots.weight.grad is not None
    torch.testing.assert_close(encoder.slots.weight.grad.sum(0), of_all, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["hstu", "hstu_time"])
def test_hstu_is_the_published_unit(name: str) -> None:
    fixture = fixture_of(name)
    buckets = 12 if name == "hstu_time" else 0  # the published code asks at the time of the next event
    encoder = HSTU(8, HSTUConfig(num_heads=2, max_length=6, time_buckets=buckets)).double().eval()
    names: dict[str, Tensor] = {}
    for number, block in enumerate(encoder.blocks):
        assert isinstance(block, HSTUBlock)
        layer = f"_attention_layers.{number}"
        names |= {
            f"{layer}._uvqk": block.project_in,
            f"{layer}._o.weight": block.project_out.weight,
            f"{layer}._o.bias": block.project_out.bias,
            f"{layer}._rel_attn_bias.{'_pos_w' if buckets else '_w'}": block.back,
        }
        if block.ago is not None:
            names[f"{layer}._rel_attn_bias._ts_w"] = block.ago
    with torch.no_grad():
        for name, parameter in names.items():
            value = torch.from_numpy(fixture[f"weight/{name}"])
            of_places = name.endswith(("._w", "_pos_w"))
            parameter.copy_(value[:6].flip(0) if of_places else value)
    rows = torch.from_numpy(fixture["rows"]).requires_grad_()
    agree(encoder, rows, fixture, names)
    seen = newest(Layout(fixture["lengths"]), 6)
    assert rows.grad is not None
    np.testing.assert_allclose(rows.grad[seen].numpy(), fixture["gradient_of_rows"], atol=1e-9, rtol=0)


def llama_values(fixture: Fixture, kind: str, number: int) -> dict[str, Tensor]:
    """A published layer's weights or gradients by our names. Rotations pair neighbours here, halves of a head there."""

    def value(name: str) -> Tensor:
        return torch.from_numpy(fixture[f"{kind}/layers.{number}.{name}.weight"])

    both = torch.stack([value(f"self_attn.{part}_proj") for part in ("q", "k")])
    paired = both.unflatten(1, (2, 2, 2)).transpose(2, 3)  # heads, then halves and pairs of a head's four
    return {
        "attention_norm.weight": value("input_layernorm"),
        "attention.query_key.weight": paired.flatten(0, 3),
        "attention.value.weight": value("self_attn.v_proj"),
        "attention.project_out.weight": value("self_attn.o_proj"),
        "feed_forward_norm.weight": value("post_attention_layernorm"),
        "feed_forward.project_in.weight": torch.cat((value("mlp.gate_proj"), value("mlp.up_proj"))),
        "feed_forward.project_out.weight": value("mlp.down_proj"),
    }


def test_llama_is_the_user_model_of_hllm() -> None:
    fixture = fixture_of("llama")
    encoder = Llama(8, LlamaConfig(num_heads=2, hidden=12, dropout=0.3)).double().eval()
    with torch.no_grad():
        encoder.norm.weight.copy_(torch.from_numpy(fixture["weight/norm.weight"]))
        for number, block in enumerate(encoder.blocks):
            ours = dict(block.named_parameters())
            values = llama_values(fixture, "weight", number)
            assert set(ours) == set(values)
            for name, parameter in ours.items():
                parameter.copy_(values[name])
    rows = torch.from_numpy(fixture["rows"]).requires_grad_()
    others = {k: v for k, v in fixture.items() if not k.startswith("gradient/layers")}
    agree(encoder, rows, others, {"norm.weight": encoder.norm.weight})
    assert rows.grad is not None
    np.testing.assert_allclose(rows.grad.numpy(), fixture["gradient_of_rows"], atol=1e-9, rtol=0)
    for number, block in enumerate(encoder.blocks):
        values = llama_values(fixture, "gradient", number)
        for name, parameter in block.named_parameters():
            torch.testing.assert_close(parameter.grad, values[name], atol=1e-9, rtol=1e-9, msg=name)


def test_vaswani_is_the_layer_of_torch() -> None:
    torch.manual_seed(0)
    encoder = Vaswani(8, VaswaniConfig(num_heads=2, hidden=12, dropout=0.3)).double().eval()
    lengths = [1, 3, 7]
    rows = torch.randn(sum(lengths), 8, dtype=torch.float64, requires_grad=True)
    found = encoder(rows, Layout(np.array(lengths)))
    weights = torch.randn(found.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((found * weights).sum(), rows)
    layers = [torch_layer(block) for block in encoder.blocks]
    expected = []
    for part in rows.split(lengths):
        states = part + sinusoids(torch.arange(len(part)), 8)
        ahead = torch.ones(len(part), len(part), dtype=torch.bool).triu(1)
        for layer in layers:
            states = layer(states[None], src_mask=ahead)[0]
        expected.append(states)
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-9, rtol=0)
    (oracle,) = torch.autograd.grad((torch.cat(expected) * weights).sum(), rows)
    torch.testing.assert_close(gradient, oracle, atol=1e-9, rtol=0)


def torch_layer(block: nn.Module) -> nn.TransformerEncoderLayer:
    """torch's own layer with the weights of one of ours."""
    assert isinstance(block, PostNormBlock)
    layer = (
        nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, dropout=0.3, batch_first=True).double().eval()
    )
    attention, heads = layer.self_attn, block.attention
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat((heads.query_key.weight, heads.value.weight)))
        attention.in_proj_bias.copy_(torch.cat((heads.query_key.bias, heads.value.bias)))
    attention.out_proj.load_state_dict(heads.project_out.state_dict())
    layer.linear1.load_state_dict(block.feed_forward.project_in.state_dict())
    layer.linear2.load_state_dict(block.feed_forward.project_out.state_dict())
    layer.norm1.load_state_dict(block.attention_norm.state_dict())
    layer.norm2.load_state_dict(block.feed_forward_norm.state_dict())
    return layer
