"""Risks of patients: the equations, a cohort whose hazard is known, and the commands."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from wsi_models.errors import TrainingError
from wsi_models.mil import kept
from wsi_models.mil.bags import Bags, Described, bags_of_patients
from wsi_models.mil.config import AbmilConfig, MilRecipe, MilTrainConfig, PoolingConfig
from wsi_models.mil.heads import build_head
from wsi_models.mil.survival.cohort import Cohort, make_cohort, read_follow_up
from wsi_models.mil.survival.cox import (
    concordance,
    concordance_interval,
    cox_loss,
    kaplan_meier,
)
from wsi_models.mil.survival.run import run_survival
from wsi_models.mil.survival.train import fit_survival, risks
from wsi_models.mil.train import Parts

from tests.mil import FEATURES, Steps, Stopping
from tests.passports import some_passport
from wsi_pipeline.cli import main
from wsi_pipeline.results.export.features import write_features
from wsi_pipeline.store.features import SlideFeatures

Patients = list[tuple[float, float, bool]]
CPU = torch.device("cpu")

patients = st.lists(
    st.tuples(st.integers(-3, 3).map(float), st.integers(1, 5).map(float), st.booleans()),
    min_size=2,
    max_size=9,
)


def columns(rows: Patients) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    risk, time, event = (np.array(column) for column in zip(*rows, strict=True))
    return risk, time, event


@settings(max_examples=60, deadline=None)
@given(rows=patients)
def test_the_loss_is_coxs_partial_likelihood(rows: Patients) -> None:
    expected = 0.0
    events = [i for i, row in enumerate(rows) if row[2]]
    for i in events:
        at_risk = [math.exp(row[0]) for row in rows if row[1] >= rows[i][1]]
        expected -= rows[i][0] - math.log(sum(at_risk))

    found = cox_loss(*map(torch.from_numpy, columns(rows)))

    assert float(found) == pytest.approx(expected / max(1, len(events)), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(rows=patients)
def test_concordance_counts_pairs_one_by_one(rows: Patients) -> None:
    right, pairs = 0.0, 0
    for risk, time, event in rows:
        for other_risk, other_time, other_event in rows:
            if event and (time < other_time or (time == other_time and not other_event)):
                pairs += 1
                right += 1.0 if risk > other_risk else 0.5 if risk == other_risk else 0.0

    found = concordance(*columns(rows))

    assert found.pairs == pairs
    assert math.isnan(found.value) if not pairs else found.value == pytest.approx(right / pairs)


def test_survival_is_estimated_as_in_the_textbook() -> None:
    time = np.array([6.0, 6, 6, 6, 7, 9, 10, 10, 11, 13])
    event = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1], dtype=bool)

    steps, share = kaplan_meier(time, event)

    assert steps.tolist() == [0, 6, 7, 10, 13]
    expected = [1, 0.7, 0.7 * 5 / 6, 0.7 * 5 / 6 * 3 / 4, 0.0]
    np.testing.assert_allclose(share, expected)


def test_the_interval_holds_the_value_and_compares_within_folds_alone() -> None:
    rng = np.random.default_rng(0)
    risk, fold = rng.normal(size=80), np.arange(80) % 2
    time, event = rng.exponential(np.exp(-risk)), rng.random(80) < 0.8
    scaled = np.where(fold == 0, 1000 + risk, risk)

    value, low, high = concordance_interval(scaled, time, event, fold)

    parts = [concordance(risk[fold == f], time[fold == f], event[fold == f]) for f in (0, 1)]
    together = sum(p.value * p.pairs for p in parts) / sum(p.pairs for p in parts)
    assert value == pytest.approx(together)
    assert low < value < high


def make_known_cohort(count: int = 60, slides_each: int = 1, seed: int = 0) -> Cohort:
    """Patients whose hazard is the exponential of the mean of their first feature, times 2."""
    rng = np.random.default_rng(seed)
    level = rng.normal(size=count)
    time = rng.exponential(np.exp(-2 * level))
    limit = np.quantile(time, 0.8)
    features = {}
    for index in range(count):
        for slide in range(slides_each):
            bag = rng.normal(size=(int(rng.integers(8, 16)), FEATURES)).astype(np.float32)
            bag[:, 0] += level[index] - bag[:, 0].mean()
            features[f"slide-{index}-{slide}"] = bag
    bags = Bags(
        slide_ids=tuple(features),
        label=np.repeat(time < limit, slides_each).astype(np.int64),
        patient=tuple(f"p{index}" for index in range(count) for _ in range(slides_each)),
        classes=("censored", "event"),
        feature_count=FEATURES,
        load=features.__getitem__,
    )
    return Cohort(bags=bags_of_patients(bags), time=np.minimum(time, limit))


def level_of(cohort: Cohort) -> NDArray[np.float64]:
    means = [cohort.bags.features(i)[:, 0].mean().item() for i in range(len(cohort.bags))]
    return np.array(means)


def test_a_known_hazard_is_found_within_its_interval(tmp_path: Path) -> None:
    cohort = make_known_cohort()
    recipe = MilRecipe(
        model=PoolingConfig(model="mean", optimisation={"lr": 0.03}),
        train=MilTrainConfig(epochs=25, folds=3, validation=0),
    )

    outcome = run_survival(recipe, cohort, tmp_path / "run", CPU, Steps())

    truth = concordance(level_of(cohort), cohort.time, cohort.event).value
    result = outcome.result
    assert result.low <= truth <= result.high
    assert result.concordance > 0.7
    assert result.low > 0.5
    with outcome.files["predictions"].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["patient"] for row in rows] == list(cohort.bags.patient)
    assert {row["group"] for row in rows} == {"lower risk", "higher risk"}
    assert outcome.files["png"].read_bytes().startswith(b"\x89PNG")
    assert "95 % interval" in outcome.files["md"].read_text()


def test_several_slides_of_a_patient_change_nothing_but_the_bags() -> None:
    one, three = make_known_cohort(20), make_known_cohort(20, slides_each=3)

    assert three.bags.slide_ids == three.bags.patient == one.bags.patient
    slides = [len(three.bags.load(name)) for name in three.bags.patient]
    assert min(slides) >= 24, "all slides of a patient are in its bag"
    merged = np.concatenate([three.bags.load("p3")])
    assert merged[:, 0].mean() == pytest.approx(level_of(three)[3], abs=1e-5)


def test_a_step_has_the_gradient_of_all_its_patients() -> None:
    cohort = make_known_cohort(12)
    config = MilTrainConfig(epochs=1, validation=0, patients=100, seed=4)
    model = PoolingConfig(
        model="mean", standardise=False, optimisation={"lr": 0.01, "weight_decay": 0}
    )
    every = np.arange(12, dtype=np.int64)
    parts = Parts(training=every, validation=every[:0])
    trained = fit_survival(MilRecipe(model=model, train=config), cohort, parts, CPU, Steps()).head

    torch.manual_seed(config.seed)
    head = build_head(model, FEATURES, 2)
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    risk = torch.stack([head.score(cohort.bags.features(i)).logits[0] for i in range(12)])
    loss = cox_loss(risk.double(), torch.from_numpy(cohort.time), torch.from_numpy(cohort.event))
    loss.backward()  # type: ignore[no-untyped-call] # of torch
    optimizer.step()
    # the loss does not depend on the bias, so that Adam makes a step of the noise of its gradient
    found, expected = (h.state_dict()["classifier.weight"] for h in (trained, head))
    torch.testing.assert_close(found, expected)


def test_training_repeats_bit_for_bit_with_dropout() -> None:
    cohort = make_known_cohort(20)
    config = MilTrainConfig(epochs=3, patients=8)
    model = AbmilConfig(embedding=(8,), attention=4, dropout=0.5)
    every = np.arange(20, dtype=np.int64)
    parts = Parts(training=every[:15], validation=every[15:])
    first, second = (
        fit_survival(MilRecipe(model=model, train=config), cohort, parts, CPU, Steps())
        for _ in range(2)
    )

    assert first.history == second.history
    assert torch.equal(risks(first.head, cohort, every), risks(second.head, cohort, every))
    assert first.history[-1]["loss"] != first.history[0]["loss"]


def test_a_run_that_was_stopped_goes_on_with_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "FIRST_SECONDS", 0)
    monkeypatch.setattr(kept, "REST", 0)
    cohort = make_known_cohort(12)
    model = AbmilConfig(embedding=(8,), attention=4, dropout=0.5)
    recipe = MilRecipe(model=model, train=MilTrainConfig(epochs=4, folds=2, patients=4))
    for after in (3, 7, 10):
        with pytest.raises(KeyboardInterrupt):
            run_survival(recipe, cohort, tmp_path / "stopped", CPU, Stopping(after))
    steps = Steps()
    run_survival(recipe, cohort, tmp_path / "stopped", CPU, steps)
    assert steps.done == steps.total == 12
    run_survival(recipe, cohort, tmp_path / "straight", CPU, Steps())
    found = {path.relative_to(tmp_path / "stopped") for path in (tmp_path / "stopped").rglob("*")}
    assert {Path("recipe.json"), Path("model/model.safetensors")} <= found
    for name in found:
        stopped, straight = (tmp_path / run / name for run in ("stopped", "straight"))
        assert stopped.is_dir() or stopped.read_bytes() == straight.read_bytes(), name


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("slide_id,patient,time\na,p,1\n", "no column event"),
        ("slide_id,time,event\na,1,1\n", "no column patient"),
        ("slide_id,patient,time,event\na,p,-1,1\n", "line 2, column time: '-1' is not a time"),
        ("slide_id,patient,time,event\na,p,1,maybe\n", "column event: 'maybe' does not say"),
        ("slide_id,patient,time,event\na,p,1,1\nb,p,2,1\n", "slides of patient p give different"),
        ("slide_id,patient,time,event\na,p,1,1\na,p,1,1\n", "slide a more than once"),
        ("slide_id,patient,time,event\na,p,NA,1\n", "no row with a time"),
    ],
)
def test_a_wrong_table_is_explained(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "t.csv").write_text(text)

    with pytest.raises(TrainingError, match=match):
        read_follow_up(tmp_path / "t.csv", "time", "event")


def test_a_cohort_without_events_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("slide_id;patient;Months;Died\na;p;1,5;no\nb;q;2;0\n")
    rows = read_follow_up(tmp_path / "t.csv", "months", "died")
    described = dict.fromkeys("ab", Described(3, 2))

    assert rows[0].time == 1.5
    with pytest.raises(TrainingError, match="no event was seen"):
        make_cohort(rows, described, lambda name: np.zeros((3, 2), dtype=np.float32))


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def test_the_commands_train_and_judge_patients(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with (tmp_path / "cohort.csv").open("w") as file:
        file.write("slide_id,patient,months,died\n")
        for index in range(16):
            level = index / 4
            for part in "ab":
                name = f"s{index}{part}"
                features = rng.normal(level, 1, size=(5, FEATURES)).astype(np.float32)
                xy = np.arange(10).reshape(-1, 2)
                slide = SlideFeatures(
                    slide_id=name,
                    features=features,
                    xy=xy,
                    passport=some_passport(features=FEATURES),
                )
                write_features(tmp_path / "features", slide)
                file.write(f"{name},p{index},{20 - index},{index % 4 != 0:d}\n")
    (tmp_path / "recipe.toml").write_text(
        '[model]\nmodel = "mean"\noptimisation.lr = 0.05\n[train]\nfolds = 2\nepochs = 20\n'
    )
    survival = ("--target", "survival", "--time", "months", "--event", "died")

    trained = call(
        "mil", "train", tmp_path / "features", "--labels", tmp_path / "cohort.csv", *survival,
        "--recipe", tmp_path / "recipe.toml", "--out", tmp_path / "run", "--device", "cpu",
        "--json",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    found = json.loads(trained.stdout)["concordance"]
    assert found["low"] <= found["value"] <= found["high"]

    judged = call(
        "mil", "predict", tmp_path / "run" / "model", tmp_path / "features", "--patients",
        tmp_path / "cohort.csv", "--out", tmp_path / "judged", "--device", "cpu", "--json",
    )  # fmt: skip
    assert judged.exit_code == 0, judged.output
    rows = json.loads(judged.stdout)
    assert [row["slide_id"] for row in rows] == [f"p{index}" for index in range(16)]
    assert set(rows[0]) == {"slide_id", "risk", "group"}
    assert rows[-1]["risk"] > rows[0]["risk"]


def test_columns_of_survival_are_refused_without_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("slide_id,label,patient\n")

    refused = CliRunner().invoke(
        main,
        ["mil", "train", str(tmp_path), "--labels", str(tmp_path / "t.csv"), "--time", "months",
         "--out", str(tmp_path / "run")],
    )  # fmt: skip

    assert refused.exit_code == 2
    assert "--time belong to --target survival" in refused.output
