"""How the loss of the next item falls with width, depth and data, and which parts of a model change that.

    python benchmarks/scaling.py train --data D --folder F [--only TEXT] [--threads 1]
    python benchmarks/scaling.py show --folder F [--figure FILE.svg]

Users are nested samples of the log: 1/32 of them, 1/8, 1/2. Each trains on the first 80% of their events; the next tenth
chooses the epoch and the last is asked once: of the users of the smallest sample, who are in all, each of these events given
all before it. The score is nats an event, a softmax over all items; NDCG@10 among those not met is printed beside it. Runs that
are there are left alone. One-sided, 512 uniform negatives with the sampling correction, one learning rate for all.

Shapes: T targets, I items, D dimensions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from duality.artifacts import atomic_file
from duality.data.dataset import Dataset
from duality.data.histories import Histories, item_histories, user_histories
from duality.data.split import Split
from duality.embeddings import user_layout
from duality.metrics import per_query
from duality.model.loss_config import LossConfig
from duality.model.two_sided import ModelConfig, TwoSided
from duality.runtime import say
from duality.training.loop import Events, TrainConfig, Trainer
from duality.workflows.attributes import Attributes

EPOCHS = {32: 40, 8: 20, 2: 10}  # by share of the users, one over
SIZES = ((16, 2), (32, 2), (64, 2), (128, 2), (64, 1), (64, 4))  # width and depth
SMALL = ((16, 2), (64, 2), (128, 2))
ROTARY = {"name": "transformer", "num_heads": 2}
PUBLISHED = {"name": "sasrec", "num_heads": 2, "max_length": 200}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[tuple[int, int], ...]]] = {
    "corrected": (ROTARY, {}, SIZES),
    "as published": (PUBLISHED, {}, SMALL),
    "user vector": (ROTARY, {"user_attributes": ["id"]}, SMALL),
}
ONE_SIDED = {
    name: 0.0 for name in ("users_compete", "next_user", "items_compete", "cycle_item", "cycle_user")
}
JUDGED = 2_000  # targets that an epoch is judged by
LEAST = 20  # events of a user


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("train", "show"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", default="", help="runs whose names hold this")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.step == "train":
        log = Log(Dataset.open(given.data))
        for share, epochs in EPOCHS.items():
            for variant, (encoder, model, sizes) in VARIANTS.items():
                for width, depth in sizes:
                    name = f"{variant}, 1 of {share}, {width} x {depth}"
                    target = given.folder / f"{name.replace(', ', '-').replace(' ', '_')}.json"
                    if given.only in name and not target.exists():
                        say(name)
                        config = {"dim": width, "user_encoder": {**encoder, "num_blocks": depth}, **model}
                        found = run(log, config, share, epochs, given.folder / "work")
                        about = {"variant": variant, "share": share, "width": width, "depth": depth}
                        with atomic_file(target) as temporary:
                            temporary.write_text(json.dumps({**about, **found}), encoding="utf-8")
    else:
        show(given.folder, given.figure)


class Log:
    """A log cut for this study."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        indptr = np.asarray(dataset.user_indptr)
        lengths = np.diff(indptr)
        place = np.arange(dataset.num_events) - np.repeat(indptr[:-1], lengths)
        part = place / np.repeat(lengths, lengths)
        self.train, self.test = part < 0.8, part >= 0.9
        self.validation = ~self.train & ~self.test
        order = np.random.default_rng(0).permutation(np.flatnonzero(lengths >= LEAST))
        self.samples = {share: np.sort(order[: len(order) // share]) for share in EPOCHS}

    def of(self, mask: np.ndarray, share: int) -> np.ndarray:
        """bool [E]: events that `mask` keeps, of the users of a sample."""
        return mask & np.isin(self.dataset.event_user, self.samples[share])


def run(log: Log, config: dict[str, Any], share: int, epochs: int, folder: Path) -> dict[str, Any]:
    """Train one model, and ask it once."""
    torch.manual_seed(0)
    dataset, mask, settings = log.dataset, log.of(log.train, share), ModelConfig.model_validate(config)
    nothing = np.empty(0, np.int64)
    attributes = Attributes.fit(dataset, Split("scaling", mask, nothing, nothing), settings)
    model = TwoSided(dataset.num_items, settings, **attributes.codes)
    smallest = max(EPOCHS)
    judged = np.flatnonzero(log.of(log.validation, smallest))
    judged = np.sort(np.random.default_rng(1).permutation(judged)[:JUDGED])
    before = user_histories(dataset, log.of(~log.test, smallest))
    trainer = Trainer(
        model,
        Events(dataset.event_user, dataset.event_item, dataset.event_time),
        user_histories(dataset, mask),
        item_histories(dataset, mask),
        LossConfig.model_validate({**ONE_SIDED, "negatives": 512}),
        TrainConfig(epochs=epochs, rows=1_000, warmup_steps=50, patience=4, metric="nats"),
        folder=folder,
    )
    started = time.process_time()
    state = trainer.fit(lambda model: {"nats": -asked(model, dataset, before, judged)["nats"]})
    seconds = time.process_time() - started
    everything = user_histories(dataset, log.of(np.ones_like(log.test), smallest))
    found = asked(model, dataset, everything, np.flatnonzero(log.of(log.test, smallest)))
    encoder = sum(p.numel() for p in model.user_encoder.parameters())
    return {
        **found,
        "events": int(mask.sum()),
        "encoder_parameters": encoder,
        "validation_nats": -state.best_value,
        "epochs": [state.epoch, state.best_epoch],
        "cpu_seconds": round(seconds),
    }


@torch.inference_mode()
def asked(model: TwoSided, dataset: Dataset, histories: Histories, targets: np.ndarray) -> dict[str, float]:
    """Mean nats and NDCG@10 of some events, int64 [T], each given those of its history before it."""
    model.eval()
    nats, ranks, competed = [], [], []
    for owner in np.unique(dataset.event_user[targets]):
        events, lengths = histories.packed(np.array([owner]))
        wanted = np.flatnonzero(np.isin(events, targets))
        items = torch.from_numpy(dataset.event_item[events].astype(np.int64))
        layout = user_layout(model, dataset, events, lengths)
        vectors = model.item_table[items]
        if model.user_encoder.prefix_invariant:
            states = model.users_before(vectors, layout, None)[wanted]
        else:
            states = model.users_before(vectors, layout, wanted)
        scores = states @ model.item_table.T
        own = scores.gather(1, items[wanted, None])
        nats.append((scores.logsumexp(1) - own[:, 0]).numpy())
        rows, earlier = (torch.arange(len(items)) < torch.from_numpy(wanted)[:, None]).nonzero(as_tuple=True)
        scores[rows, items[earlier]] = -torch.inf
        scores.scatter_(1, items[wanted, None], own)
        ranks.append((scores >= own).sum(1).numpy())  # ties count against the target
        competed.append(len(model.item_table) - wanted)
    gain = per_query("ndcg@10", np.concatenate(ranks), np.concatenate(competed)).mean()
    return {"nats": float(np.concatenate(nats).mean()), "ndcg@10": float(gain), "targets": len(targets)}


def show(folder: Path, figure: Path | None) -> None:
    """All runs as a table, the law fitted to the corrected ones, and the picture."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    runs.sort(key=lambda r: (list(VARIANTS).index(r["variant"]), -r["share"], r["depth"], r["width"]))
    print(
        "| | events | width x depth | encoder parameters | nats | NDCG@10 | best epoch | CPU seconds |\n"
        + "|---" * 8
        + "|"
    )
    for r in runs:
        print(
            f"| {r['variant']} | {r['events']:,} | {r['width']} x {r['depth']} | {r['encoder_parameters']:,} | "
            f"{r['nats']:.4f} | {r['ndcg@10']:.4f} | {r['epochs'][1]} of {r['epochs'][0]} | {r['cpu_seconds']:,} |"
        )
    for variant in VARIANTS:
        some = [r for r in runs if r["variant"] == variant]
        if len({r["events"] for r in some}) > 1 and len(some) >= 6:
            print(f"\n{variant}: {law(some)}")
    if figure is not None:
        draw(runs, figure)


def law(runs: list[dict[str, Any]]) -> str:
    """nats = rest + a N^-alpha + b E^-beta, N encoder parameters, E events: least squares over a grid of exponents.

    Source: Kaplan et al. (2020) and Hoffmann et al. (2022), 3.3.
    """
    size, events, nats = (
        np.array([r[key] for r in runs], float) for key in ("encoder_parameters", "events", "nats")
    )
    best: tuple[float, Any] = (np.inf, None)
    for alpha in np.arange(0.05, 2.01, 0.05):
        for beta in np.arange(0.05, 2.01, 0.05):
            design = np.stack((np.ones_like(nats), (size / 1e4) ** -alpha, (events / 1e4) ** -beta), 1)
            found = np.linalg.lstsq(design, nats, rcond=None)[0].clip(min=0)
            error = float(((design @ found - nats) ** 2).sum())
            best = min(best, (error, (alpha, beta, found)), key=lambda pair: pair[0])
    error, (alpha, beta, (rest, a, b)) = best
    left = 1 - error / ((nats - nats.mean()) ** 2).sum()
    return (
        f"nats = {rest:.2f} + {a:.3f} (N / 10^4)^-{alpha:.2f} + {b:.3f} (events / 10^4)^-{beta:.2f}, "
        f"R2 {left:.3f}, {len(runs)} runs"
    )


def draw(runs: list[dict[str, Any]], figure: Path) -> None:
    """nats by width at depth 2, a line for each variant, a panel for each amount of data, as SVG."""
    from duality.workflows.report_drawing import CONFIG, SCHEMA, quantity, styles, svg

    rows = [{**r, "events": f"{r['events']:,} events"} for r in runs if r["depth"] == 2]
    order, colours, dashes = styles(list(VARIANTS))
    variant = {"field": "variant", "type": "nominal", "sort": order, "title": None}
    free, ticks = {"zero": False}, {"values": [16, 32, 64, 128]}
    widths = {"type": "log", "domain": [14, 146], "nice": False}
    panels = list(dict.fromkeys(r["events"] for r in sorted(rows, key=lambda r: -r["share"])))
    picture = {
        "$schema": SCHEMA,
        "config": CONFIG,
        "data": {"values": rows},
        "facet": {"column": {"field": "events", "type": "nominal", "sort": panels, "title": None}},
        "spec": {
            "width": 210,
            "height": 220,
            "mark": {"type": "line", "point": True},
            "encoding": {
                "x": {**quantity("width", "width"), "scale": widths, "axis": ticks},
                "y": {**quantity("nats", "nats an event, test"), "scale": free},
                "color": {**variant, "scale": colours},
                "strokeDash": {**variant, "scale": dashes},
            },
        },
    }
    figure.write_text(svg(picture), encoding="utf-8")


if __name__ == "__main__":
    main()
