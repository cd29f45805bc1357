"""How far sampled candidates mislead, and how much of it each estimator of `evaluation/sampled.py` mends.

    python benchmarks/sampled_metrics.py --model models/ml1m --model models/ml1m-one-sided
    python benchmarks/sampled_metrics.py --model models/ml1m --negatives 100 --draws 100

Every model and baseline is ranked in full once, user to item, on the test split. Given a full rank r
among n, the rank among m uniform candidates is 1 + Hypergeometric(r - 1, n - r, m): candidates are
redrawn from that law, `--draws` times for each m (50 or more for the order of pairs). Three tables come
out as Markdown: full metrics; bias and root-mean-square error of each estimator; pairs of systems whose
order the sampled metric reverses.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duality.data.splits import split_named
from duality.evaluation.baselines import MostPopular, RecentPopularity
from duality.evaluation.intervals import paired_difference
from duality.evaluation.neighbours import NearestNeighbours
from duality.evaluation.queries import USER_TO_ITEM, Queries, World, make_queries
from duality.evaluation.ranking import Candidates, Scorer, rank_full, rank_sampled, sample_negatives
from duality.evaluation.sampled import corrected
from duality.metrics import per_query
from duality.model.folder import ModelFolder
from duality.workflows.scorers import ModelScorer, States
from duality.workflows.train import dataset_of, world_of

COMPARED = ("naive", "constrained", "bias-variance", "mapping")  # in the table of reversed pairs
PRINTED = ("naive", "rank", "constrained", "bias-variance", "mapping", "mle")
SEEDS_OF_POPULARITY = 3  # each draw scores every query again


@dataclass(frozen=True, eq=False)
class Ranked:
    """Full ranks of every system, int64 [Q] by name, the candidates n int64 [Q], the users int32 [Q]."""

    ranks: dict[str, np.ndarray]
    candidates: np.ndarray
    users: np.ndarray
    popular: dict[str, list[np.ndarray]]  # ranks among popularity-sampled candidates, per seed


def baselines(world: World) -> dict[str, Scorer]:
    """Popularity of all time and of windows, and item neighbours, by name."""
    found: dict[str, Scorer] = {"most_popular": MostPopular(world, USER_TO_ITEM)}
    if world.event_time is not None:
        for days in (1, 30):
            found[f"popular_{days}_days"] = RecentPopularity(world, USER_TO_ITEM, days)
    for neighbours in (20, 200):
        found[f"item_knn_{neighbours}"] = NearestNeighbours(world, USER_TO_ITEM, neighbours=neighbours)
    return found


def rank_all(models: list[Path], data: Path | None, popular: int) -> Ranked:
    """Rank every model and baseline; all models belong to one dataset and split."""
    folders = [ModelFolder.open(path) for path in models]
    dataset = dataset_of(folders[0], data)
    split = split_named(dataset, folders[0].config["split"]["name"])
    world = world_of(dataset, split, "test")
    queries = make_queries(world, split.hidden("test"), USER_TO_ITEM)
    scorers: dict[str, Scorer] = {
        path.name: ModelScorer(States(folder.load(), dataset, world.visible))
        for path, folder in zip(models, folders, strict=True)
    }
    scorers |= baselines(world)
    ranked = {name: rank_full(scorer, queries, world, USER_TO_ITEM) for name, scorer in scorers.items()}
    n = next(iter(ranked.values()))[1]
    ranks = {name: pair[0] for name, pair in ranked.items()}
    return Ranked(ranks, n, queries.user, among_popular(scorers, queries, world, popular))


def among_popular(
    scorers: dict[str, Scorer], queries: Queries, world: World, m: int
) -> dict[str, list[np.ndarray]]:
    """Ranks among m candidates drawn by popularity, one array per seed."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in scorers}
    for seed in range(SEEDS_OF_POPULARITY):
        negatives = sample_negatives(queries, world, USER_TO_ITEM, Candidates("popularity", m), seed=seed)
        for name, scorer in scorers.items():
            found[name].append(rank_sampled(scorer, queries, world, USER_TO_ITEM, negatives)[0])
    return found


def redrawn(ranks: np.ndarray, n: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Ranks among m fresh uniform candidates."""
    return 1 + rng.hypergeometric(ranks - 1, n - ranks, np.minimum(m, n - 1))


def estimates(ranked: Ranked, metric: str, system: str, m: int, draws: int, name: str) -> np.ndarray:
    """Estimates of one system's metric, float64 [draws]; every estimator meets the same draws."""
    rng, ranks = np.random.default_rng([m, *system.encode()]), ranked.ranks[system]
    drawn = np.minimum(m, ranked.candidates - 1)
    samples = (redrawn(ranks, ranked.candidates, m, rng) for _ in range(draws))
    return np.array(
        [corrected(metric, sample, drawn, ranked.candidates, estimator=name).mean() for sample in samples]
    )


def truth(ranked: Ranked, metric: str) -> np.ndarray:
    """Full-ranking metric of every system, float64 [systems]."""
    return np.array([per_query(metric, r, ranked.candidates).mean() for r in ranked.ranks.values()])


def print_errors(ranked: Ranked, metric: str, system: str, sizes: list[int], draws: int) -> None:
    """Bias and root-mean-square error of each estimator for one system."""
    full = per_query(metric, ranked.ranks[system], ranked.candidates).mean()
    print(f"\n{metric} of {system}, full {full:.4f}: bias (root-mean-square error) over {draws} draws\n")
    print(f"| estimator | {' | '.join(map(str, sizes))} |")
    print("|---" * (len(sizes) + 1) + "|")
    for name in PRINTED:
        errors = [estimates(ranked, metric, system, m, draws, name) - full for m in sizes]
        cells = [f"{e.mean():+.4f} ({np.sqrt(np.mean(e**2)):.4f})" for e in errors]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def print_reversals(ranked: Ranked, metric: str, sizes: list[int], draws: int) -> None:
    """Pairs whose order in full is beyond doubt and that a naive sampled metric puts the other way."""
    full, popular = truth(ranked, metric), by_popularity(ranked, metric)
    columns = [(m, name) for m in sizes for name in COMPARED]
    found = {
        (m, name): np.stack([estimates(ranked, metric, s, m, draws, name) for s in ranked.ranks], axis=1)
        for m, name in columns
    }
    print(f"\n{metric}: share of draws that put the better system first; popularity: difference x 1000\n")
    heads = " | ".join(f"{name}:{m}" for m, name in columns)
    print(f"| better | worse | full difference (95%) | popularity | {heads} |")
    print("|---" * (4 + len(columns)) + "|")
    for a, b in itertools.permutations(range(len(full)), 2):
        right = {key: (values[:, a] > values[:, b]).mean() for key, values in found.items()}
        reversed_ = min(right[m, "naive"] for m in sizes) < 0.5 or popular[a] < popular[b]
        if full[a] <= full[b] or not reversed_:
            continue
        first, second = (list(ranked.ranks)[i] for i in (a, b))
        one, two = (per_query(metric, ranked.ranks[x], ranked.candidates)[:, None] for x in (first, second))
        gap = paired_difference(one, two, ranked.users)
        if gap.low[0] > 0:
            shown = f"{gap.value[0]:.4f} ({gap.low[0]:.4f} to {gap.high[0]:.4f})"
            cells = " | ".join(f"{share:.0%}" for share in right.values())
            print(f"| {first} | {second} | {shown} | {1000 * (popular[a] - popular[b]):+.1f} | {cells} |")


def by_popularity(ranked: Ranked, metric: str) -> np.ndarray:
    """Naive metric among popularity-sampled candidates, mean over seeds, float64 [systems]."""
    return np.array(
        [
            np.mean([per_query(metric, ranks, np.full(len(ranks), ranks.max())).mean() for ranks in seeds])
            for seeds in ranked.popular.values()
        ]
    )


def main() -> None:
    """Rank, redraw, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", required=True, help="may be repeated")
    parser.add_argument("--data", type=Path, help="default: the dataset that the first model recorded")
    parser.add_argument("--metrics", default="ndcg@10,recall@10")
    parser.add_argument("--negatives", default="10,30,100,300,1000")
    parser.add_argument("--detail", help="systems whose errors are shown; default: the first model")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--popular", type=int, default=100, help="popularity-sampled negatives")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.negatives.split(",")]
    ranked = rank_all(arguments.model, arguments.data, arguments.popular)
    metrics = arguments.metrics.split(",")
    print(f"| system | {' | '.join(metrics)} | median rank of {int(np.median(ranked.candidates))} |")
    print("|---" * (len(metrics) + 2) + "|")
    for row, (name, ranks) in enumerate(ranked.ranks.items()):
        values = " | ".join(f"{truth(ranked, metric)[row]:.4f}" for metric in metrics)
        print(f"| {name} | {values} | {np.median(ranks):.0f} |")
    for metric in metrics:
        for system in arguments.detail.split(",") if arguments.detail else list(ranked.ranks)[:1]:
            print_errors(ranked, metric, system, sizes, arguments.draws)
        print_reversals(ranked, metric, sizes, max(arguments.draws, 50))


if __name__ == "__main__":
    main()
