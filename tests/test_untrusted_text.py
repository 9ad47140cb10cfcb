"""Names in files, made to do harm, are shown as what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from click.testing import CliRunner
from wsi_models.curves import draw_evaluation
from wsi_models.metrics import evaluate_logits

from wsi_pipeline.cli import main
from wsi_pipeline.cli.console import shown

HARM = "a$_$b<script>alert(1)</script>[/bold]&"


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert shown("a\x1b[2Jb\nc\td") == "a\\x1b[2Jb\nc\td"


def test_the_report_of_slides_with_harmful_names_is_text(tmp_path: Path) -> None:
    rgb = np.full((512, 512, 3), 240, dtype=np.uint8)
    scale: dict[str, Any] = {"resolution": (20_000, 20_000), "resolutionunit": 3}
    tifffile.imwrite(tmp_path / "a.tif", rgb, tile=(256, 256), **scale)
    (tmp_path / "s.csv").write_text("path,slide_id\na.tif,a$_$b<script>x[bold]\nb.tif,b<b>\n")

    done = CliRunner().invoke(
        main, ["preprocess", str(tmp_path / "s.csv"), "--out", str(tmp_path / "o"), "--quiet"]
    )

    assert isinstance(done.exception, SystemExit)
    page = (tmp_path / "o" / "index.html").read_text()
    assert "<script>x" not in page
    assert "b<b>" not in page
    assert "&lt;script&gt;x[bold]" in page


def test_pictures_take_no_name_for_a_formula(tmp_path: Path) -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 1.0]])
    classes = ("a$_$b", "$\\x$")
    evaluation = evaluate_logits(logits, torch.tensor([0, 1, 0, 1]), list("pqrs"), classes)
    draw_evaluation(tmp_path / "a.png", evaluation, HARM)
    assert (tmp_path / "a.png").stat().st_size > 1000
