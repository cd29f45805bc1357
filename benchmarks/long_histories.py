"""Histories of 8,192 events: a training step in little memory, and one more event without encoding the rest again.

    python benchmarks/long_histories.py [--length 8192] [--users 4] [--threads 2]

For the default encoder with 64 dimensions: seconds and memory of a training step on packed histories of half that
length and of all of it; then milliseconds to encode a history anew after one more event and to append the
event to what was kept, with the largest difference between the two states.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from duality.encoders.base import Layout
from duality.encoders.registry import make_encoder
from duality.encoders.transformer import Transformer, TransformerConfig
from duality.model.incremental import continued
from duality.model.losses import softmax_loss

DIM, ITEMS, ROUNDS = 64, 5_000, 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=8_192)
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--step", action="store_true", help="one training step, in a process of its own")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.step:
        print(*step(given.length, given.users))
        return
    for length in (given.length // 2, given.length):
        command = [sys.executable, __file__, "--step", "--length", str(length)]
        command += ["--users", str(given.users), "--threads", str(given.threads)]
        seconds, megabytes = map(float, subprocess.check_output(command, text=True).split())
        rate = given.users * length / seconds
        print(
            f"training, {given.users} x {length:,} events: {seconds:.2f} s a step, {rate:,.0f} events/s, {megabytes:,.0f} MB"
        )
    again, appended, apart = extension(given.length)
    print(
        f"one more event after {given.length:,}: encoded anew {again * 1e3:.1f} ms, appended {appended * 1e3:.2f} ms, "
        f"{again / appended:.0f} x; states differ by {apart:.1e} at most"
    )


def step(length: int, users: int) -> tuple[float, float]:
    """Seconds of one step, and what it added to the memory of the process, in MB."""
    encoder, table = _encoder().train(), torch.randn(ITEMS, DIM, requires_grad=True)
    _trained(encoder, table, 64, users)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    _trained(encoder, table, length, users)
    seconds = time.perf_counter() - started
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def _trained(encoder: Transformer, table: torch.Tensor, length: int, users: int) -> None:
    items = torch.randint(ITEMS, (users * length,))
    states = encoder(table[items], Layout(np.full(users, length)))
    softmax_loss(states, table[items], table, items)[0].backward()


@torch.inference_mode()
def extension(length: int) -> tuple[float, float, float]:
    """Seconds to encode a longer history anew, and to append to it; the largest difference of the states."""
    encoder, rows = _encoder().eval(), torch.randn(length + 1, DIM)
    kept = continued(encoder, rows[:-1], Layout(np.array([length])))
    layout = Layout(np.array([length + 1]))
    again, anew = _timed(lambda: encoder(rows, layout)[-1])
    appended, state = _timed(lambda: continued_by(kept, rows[-1:]))
    return again, appended, float((anew - state).abs().max())


def continued_by(kept: object, row: torch.Tensor) -> torch.Tensor:
    """The state after one more row; what was kept of the history stays as it was."""
    kept.own, kept.added = None, 0  # type: ignore[attr-defined]
    states: torch.Tensor = kept.extend(row[None])  # type: ignore[attr-defined]
    return states[0, 0]


def _encoder() -> Transformer:
    torch.manual_seed(0)
    encoder = make_encoder(DIM, TransformerConfig())
    assert isinstance(encoder, Transformer)
    return encoder


def _timed(ask: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Best of some rounds, in seconds, and what came out."""
    best, found = float("inf"), ask()
    for _ in range(ROUNDS):
        started = time.perf_counter()
        found = ask()
        best = min(best, time.perf_counter() - started)
    return best, found


if __name__ == "__main__":
    main()
