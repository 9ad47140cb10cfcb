"""A few damaged and malicious inputs for everything that reads a file; many by the command.

``python -m tests.faults`` reads thousands and prints a table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.faults.mutate import BINARY, TEXT, Mutator, mutate
from tests.faults.running import reader
from tests.faults.targets import TARGETS
from tests.faults.trial import Verdict

SEEDS = 4
MAX_MIB = 2048


def test_every_input_ends_in_content_or_a_word(tmp_path: Path) -> None:
    wrong = []
    with reader(tmp_path) as process:
        for name in TARGETS:
            for seed in range(SEEDS):
                result, _ = process.read(name, seed)
                good = result.verdict in (Verdict.READ, Verdict.REFUSED) and result.mib < MAX_MIB
                wrong += [] if good else [(name, seed, result)]
    assert not wrong


@pytest.mark.parametrize("mutators", [BINARY, TEXT], ids=["binary", "text"])
def test_a_seed_makes_one_input(mutators: tuple[Mutator, ...]) -> None:
    content = (Path(__file__).parent / "stores.py").read_bytes()
    one, again, other = (
        mutate(content, mutators, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert one == again != other
    assert one != content
