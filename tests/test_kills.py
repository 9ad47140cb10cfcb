"""Commands that are killed and run again leave what an undisturbed one leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kills import SCENARIOS, run_trials


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_files(tmp_path: Path) -> None:
    run = [scenario for scenario in SCENARIOS if scenario.name == "run"]

    tally = run_trials(tmp_path, run, trials=2, seed=3)

    assert tally == {"run": {"resumed": 2}}
