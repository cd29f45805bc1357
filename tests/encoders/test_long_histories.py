"""8,192 events of a user: memory does not grow with the square of their number."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from duality.encoders.registry import ENCODERS

LENGTH = 8_192
PROGRAM = """
import resource, sys
import numpy as np, torch
from pydantic import TypeAdapter
from duality.encoders.base import Layout
from duality.encoders.registry import EncoderConfig, make_encoder
torch.set_num_threads(1)
name, length = sys.argv[1], int(sys.argv[2])
# A gate for every pair of slots is what the denoiser is: it sees its newest fifty rows.
limit = {"max_length": 8193} if name in ("sasrec", "hstu", "bert4rec") else {}
encoder = make_encoder(32, TypeAdapter(EncoderConfig).validate_python({"name": name, "num_blocks": 1, **limit}))
rows = torch.randn(length, 32, requires_grad=True)
encoder(rows[:64], Layout(np.array([64]))).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
encoder(rows, Layout(np.array([length]))).square().sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("name", list(ENCODERS))
def test_training_on_a_long_history_needs_no_square_of_weights(name: str) -> None:
    # Freed blocks go back to the system: the heap in pieces would hide what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    command = [sys.executable, "-c", PROGRAM, name, str(LENGTH)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    # One head's weights alone would be 256 MB, and their gradients as much again.
    assert float(done.stdout) < 230
