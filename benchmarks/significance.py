"""Time and memory of the cluster bootstrap and the sign-flip test; how often either test is wrong.

python benchmarks/significance.py --queries 1000000 --resamples 1000
python benchmarks/significance.py --claims
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from duality.evaluation.comparison import two_way
from duality.evaluation.intervals import cluster_bootstrap, percentile_interval, resampled_means
from duality.evaluation.significance import method_test, sign_flip_test
from duality.runtime import num_threads


def peak_mb() -> float:
    """Largest resident size of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


POPULATIONS, SOURCES, SEEDS = 400, 60, 5


def claims(source: float, run: float, effect: float) -> None:
    """Print how often a difference is claimed, and how often intervals hold the truth.

    Args:
        source, run: standard deviation of the methods' difference over sources, and of a training run.
        effect: the true difference.
    """
    random = np.random.default_rng(7)
    likes = random.normal(0, source / 2, (1, SOURCES, POPULATIONS))
    first, second = (
        sign * likes
        + random.normal(0, run, (SEEDS, 1, POPULATIONS))
        + random.normal(0, 0.3, (SEEDS, SOURCES, POPULATIONS))
        for sign in (1, -1)
    )
    first, clusters = first + effect, np.arange(SOURCES)
    averaged = sign_flip_test(first.mean(axis=0) - second.mean(axis=0), clusters, draws=999)
    together = method_test(first, second, clusters, draws=999)
    columns = np.concatenate([*first, *second], axis=1)
    means = resampled_means(columns, clusters, resamples=600).reshape(600, 2, SEEDS, POPULATIONS)
    one = means[:, 0].mean(axis=1) - means[:, 1].mean(axis=1)
    two = two_way(means[:, 0], 0, 0) - two_way(means[:, 1], 0, 1)
    bounds = [percentile_interval(np.full(POPULATIONS, effect), drawn) for drawn in (one, two)]
    covered = [np.mean((b.low <= effect) & (b.high >= effect)) for b in bounds]
    print(
        f"sources {source}, runs {run}, effect {effect}: claimed {np.mean(averaged <= 0.05):.3f} seeds averaged, "
        f"{np.mean(together <= 0.05):.3f} together; truth inside {covered[0]:.3f}, {covered[1]:.3f}"
    )


def main() -> None:
    """Print seconds and peak memory of either method on the same random values, or `--claims`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, help="[as many as queries]")
    parser.add_argument("--metrics", type=int, default=4)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--claims", action="store_true", help="size, power and coverage instead of time")
    asked = parser.parse_args()
    if asked.claims:
        for case in ((1.0, 0.0, 0.0), (1.0, 0.2, 0.0), (0.3, 0.3, 0.0), (0.0, 0.3, 0.0), (0.3, 0.1, 0.4)):
            claims(*case)
        return
    random = np.random.default_rng(0)
    values = random.random((asked.queries, asked.metrics))
    clusters = np.arange(asked.queries) % (asked.clusters or asked.queries)
    before = peak_mb()
    work = {
        "cluster_bootstrap": lambda: cluster_bootstrap(values, clusters, resamples=asked.resamples),
        "sign_flip_test": lambda: sign_flip_test(values - 0.5, clusters, draws=asked.resamples),
    }
    print(
        f"{asked.queries:,} queries x {asked.resamples:,}, {asked.metrics} metrics, {num_threads()} threads"
    )
    for name, call in work.items():
        seconds, busy = [], []
        for _ in range(asked.repeat):
            started, worked = time.perf_counter(), time.process_time()
            call()
            seconds.append(time.perf_counter() - started)
            busy.append(time.process_time() - worked)
        wall = f"{min(seconds):6.2f} to {max(seconds):6.2f} s"
        print(f"{name:20} {wall}, processor {min(busy):6.2f} s, peak {peak_mb() - before:5.0f} MB more")


if __name__ == "__main__":
    main()
