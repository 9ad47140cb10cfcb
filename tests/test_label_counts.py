"""What is annotated, counted by class and patient, and whether it is enough to train with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from wsi_models.errors import TrainingError
from wsi_models.recipes import find_recipe
from wsi_models.split_gaps import describe_gaps
from wsi_models.splits import SplitConfig, split_by_group

from tests.test_report import Page
from wsi_pipeline.run.labels import count_labels, judge_labels, name_patients
from wsi_pipeline.run.outcome import RunReport, SlideOutcome, Status
from wsi_pipeline.run.report import write_report


def slide(name: str, patient: str, **labels: int) -> SlideOutcome:
    return SlideOutcome(
        slide_id=name,
        path=name,
        status=Status.DONE,
        labels={"tumor": 0, "necrosis": 0, **labels},
        patient=patient,
        tile_mm2=0.01,
    )


SLIDES = [
    slide("a", "P1", tumor=10, necrosis=4),
    slide("b", "P1", tumor=5),
    slide("c", "P2", tumor=7),
    slide("d", "", tumor=1),
    SlideOutcome(slide_id="e", path="e", status=Status.DONE),
]


def test_tiles_are_counted_by_class_and_patient() -> None:
    tumor, necrosis = count_labels([*SLIDES, SLIDES[0]])
    assert tumor.tiles == {"P1": 15, "P2": 7, "d": 1}
    assert tumor.slides == 4
    assert tumor.mm2 == pytest.approx(0.23)
    assert name_patients(tumor) == "P1 15, P2 7, d 1"
    assert necrosis.tiles == {"P1": 4}
    assert count_labels(SLIDES[4:]) == []


def test_too_little_is_named_by_class_and_patient() -> None:
    (problem,) = judge_labels(count_labels(SLIDES))
    assert problem.startswith("class necrosis is in one patient only (P1), too few to train")
    assert "annotate it in 2 more patients" in problem
    (tumor, nothing) = judge_labels(count_labels(SLIDES[1:3]))
    assert "class tumor is in 2 patients (P1, P2)" in tumor
    assert nothing.startswith("class necrosis has no tile")
    assert judge_labels(count_labels([slide(n, n, tumor=1, necrosis=2) for n in "abc"])) == []


def test_the_page_says_so(tmp_path: Path) -> None:
    report = RunReport(
        command="", started="", config={}, model={}, versions={}, outcomes=tuple(SLIDES)
    )
    write_report(tmp_path / "index.html", report)
    text = Page((tmp_path / "index.html").read_text()).text
    assert "P1 15, P2 7, d 1" in text
    assert "Class necrosis is in one patient only (P1)" in text


def gaps(groups: list[str], labels: list[int], **shares: float) -> tuple[list[str], list[str]]:
    config = SplitConfig(**shares)
    label = np.array(labels, dtype=np.int64)
    split = split_by_group(label, groups, config, seed=0)
    return describe_gaps(split, label, groups, ("tumor", "necrosis"), config)


def test_a_split_of_one_patient_is_an_error_that_names_it() -> None:
    errors, _ = gaps(["P7"] * 4, [0, 0, 1, 1])
    assert len(errors) == 2
    assert errors[0].startswith("class tumor is annotated in one patient only (P7), and ")
    assert "annotate it in 2 more patients" in errors[0]


def test_a_class_that_cannot_be_tested_is_a_warning() -> None:
    groups = [f"P{n // 2}" for n in range(12)]
    errors, warnings = gaps(groups, [0, 0] * 5 + [1, 1])
    assert errors == []
    (warning,) = warnings
    assert warning.startswith("class necrosis is annotated in one patient only (P5)")


def test_enough_patients_leave_no_gap() -> None:
    groups = [f"P{n}" for n in range(12)]
    assert gaps(groups, [0, 1] * 6) == ([], [])
    assert gaps(["P1", "P2"], [0, 1], validation=0, test=0) == ([], [])


def test_recipes_are_found_by_name_and_by_file(tmp_path: Path) -> None:
    for name in ("class_m", "supervised", "mil"):
        assert find_recipe(name).name == f"{name}.toml"
        assert find_recipe(name).is_file()
    (tmp_path / "own.toml").write_text("name = 'own'\n")
    assert find_recipe(str(tmp_path / "own.toml")) == tmp_path / "own.toml"
    with pytest.raises(
        TrainingError, match=r"no recipe 'examples/vit.toml'; there is one called v"
    ):
        find_recipe("examples/vit.toml")
    with pytest.raises(TrainingError, match=r"no recipe 'klass_m'; give a TOML file or one of: b"):
        find_recipe("klass_m")
