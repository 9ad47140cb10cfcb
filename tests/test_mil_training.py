"""Bags, folds, training and the run: known truth, parts that share nothing, and what is kept."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from wsi_models.errors import TrainingError
from wsi_models.mil import bags as bags_module
from wsi_models.mil import cross_validation, kept
from wsi_models.mil.bags import Described, SlideLabel, order_classes, read_slide_labels
from wsi_models.mil.bundle import load_slide_model
from wsi_models.mil.config import MilRecipe, MilTrainConfig, ModelName, load_mil_recipe
from wsi_models.mil.cross_validation import cross_validate, evaluate_slide_model, run_mil
from wsi_models.mil.folds import cut_validation, fold_by_patient
from wsi_models.mil.predict import judge_slide, write_judgements
from wsi_models.mil.train import Parts, choose_threshold, decide, fit, predict_bags
from wsi_models.model_folder import BundleError
from wsi_models.recipes import find_recipe

from tests.mil import FEATURES, Steps, Stopping, make_bags

CPU = torch.device("cpu")


def recipe(name: ModelName = "abmil", **train: object) -> MilRecipe:
    model: dict[str, object] = {"model": name, "optimisation": {"lr": 0.01}}
    if name in ("abmil", "clam-sb"):
        model |= {"embedding": (8,), "attention": 8, "dropout": 0.0}
    if name == "clam-sb":
        model |= {"instances": 2}
    values = {"epochs": 12, "folds": 4, "seed": 1, **train}
    return MilRecipe.model_validate({"name": "small", "model": model, "train": values})


def halves(count: int) -> Parts:
    every = np.arange(count, dtype=np.int64)
    return Parts(training=every[: count // 2], validation=every[count // 2 :])


@pytest.mark.parametrize("name", ["max", "abmil", "dsmil", "clam-sb"])
def test_attention_finds_the_marked_instance(name: ModelName) -> None:
    bags, marked = make_bags(40)
    chosen = recipe(name, epochs=30)
    fitted = fit(chosen, bags, halves(40), CPU, Steps())
    right = [
        int(fitted.head.score(bags.features(index)).attention[:, 0].argmax())
        == marked[bags.slide_ids[index]]
        for index in range(20, 40)
        if bags.slide_ids[index] in marked
    ]
    prob = predict_bags(fitted.head, bags, np.arange(20, 40))
    assert np.mean(right) >= 0.9
    assert (decide(prob, 0.5).numpy() == bags.label[20:]).mean() >= 0.9


def test_three_classes_are_told_apart() -> None:
    bags, _ = make_bags(60, 30, classes=("none", "first", "second"))
    chosen = recipe("dsmil", epochs=40)
    fitted = fit(chosen, bags, halves(60), CPU, Steps())
    prob = predict_bags(fitted.head, bags, np.arange(30, 60))
    assert prob.shape == (30, 3)
    assert (decide(prob, 0.5).numpy() == bags.label[30:]).mean() >= 0.8


@settings(max_examples=60, deadline=None)
@given(
    patients=st.integers(6, 40),
    slides=st.integers(1, 3),
    count=st.integers(2, 6),
    seed=st.integers(0, 1000),
)
def test_folds_share_no_patient_and_hold_every_class(
    patients: int, slides: int, count: int, seed: int
) -> None:
    label = np.tile(np.arange(patients) % 2, slides).astype(np.int64)
    patient = [f"p{index % patients}" for index in range(patients * slides)]
    fold = fold_by_patient(label, patient, count, seed=seed)
    assert set(fold.tolist()) == set(range(count))
    for name in set(patient):
        assert len({int(f) for f, p in zip(fold, patient, strict=True) if p == name}) == 1
    for value in (0, 1):
        sizes = np.bincount(fold[label == value], minlength=count)
        assert sizes.max() - sizes.min() <= slides, "not stratified"
    training = np.flatnonzero(fold != 0)
    kept, validation = cut_validation(training, label, patient, 0.25, seed=seed)
    assert not set(kept) & set(validation)
    assert not {patient[i] for i in kept} & {patient[i] for i in validation}
    assert not {patient[i] for i in np.r_[kept, validation]} & {
        patient[i] for i in np.flatnonzero(fold == 0)
    }


def test_folds_that_cannot_be_are_refused() -> None:
    label = np.array([0, 0, 1, 1])
    with pytest.raises(TrainingError, match="at most 4"):
        fold_by_patient(label, list("abcd"), 5, seed=0)
    with pytest.raises(TrainingError, match="class 1 test in one fold"):
        fold_by_patient(label, list("abcc"), 2, seed=0)


def test_slides_that_test_change_no_model() -> None:
    bags, _ = make_bags(24, 12)
    chosen = recipe(threshold="validation", epochs=3)
    before = cross_validate(chosen, bags, CPU, Steps())
    testing = np.flatnonzero(before.fold == 0)
    flipped = bags.label.copy()
    flipped[testing] = 1 - flipped[testing]
    parts = Parts(
        training=np.flatnonzero(before.fold > 1), validation=np.flatnonzero(before.fold == 1)
    )
    other = bags_module.Bags(
        slide_ids=bags.slide_ids, label=flipped, patient=bags.patient, classes=bags.classes,
        feature_count=FEATURES, load=bags.load,
    )  # fmt: skip
    one, two = (fit(chosen, each, parts, CPU, Steps()) for each in (bags, other))
    assert one.threshold == two.threshold
    for name, tensor in one.head.state_dict().items():
        assert torch.equal(tensor, two.head.state_dict()[name]), name


def test_training_is_deterministic_and_depends_on_the_seed() -> None:
    bags, _ = make_bags(12, 12)
    runs = [fit(recipe(epochs=2, seed=seed), bags, halves(12), CPU, Steps()) for seed in (5, 5, 6)]
    first, again, other = ([row["loss"] for row in run.history] for run in runs)
    assert first == again
    assert first != other


def test_features_are_standardised_by_those_that_train_alone() -> None:
    bags, _ = make_bags(10, 10)
    parts = halves(10)
    head = fit(recipe(epochs=1), bags, parts, CPU, Steps()).head
    pooled = torch.cat([bags.features(index) for index in parts.training.tolist()])
    torch.testing.assert_close(head.mean, pooled.mean(dim=0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head.std, pooled.std(dim=0, correction=0), atol=1e-5, rtol=1e-5)


def test_training_stops_early_with_the_best_weights() -> None:
    bags, _ = make_bags(20)
    steps = Steps()
    config = MilTrainConfig(epochs=60, patience=3)
    model = recipe().model.model_copy(
        update={"optimisation": recipe().model.optimisation.model_copy(update={"lr": 0.05})}
    )
    fitted = fit(MilRecipe(model=model, train=config), bags, halves(20), CPU, steps)
    losses = [float(row["validation_loss"] or 0) for row in fitted.history]
    assert len(losses) < 60
    assert fitted.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) - fitted.best_epoch == 3
    assert steps.done == 60
    prob = predict_bags(fitted.head, bags, halves(20).validation)
    label = torch.from_numpy(bags.label[10:])
    loss = torch.nn.functional.nll_loss(prob.log(), label)
    assert float(loss) == pytest.approx(min(losses), rel=1e-3)


def test_a_diverged_run_is_refused() -> None:
    bags, _ = make_bags(8, 8)
    broken = bags_module.Bags(
        slide_ids=bags.slide_ids, label=bags.label, patient=bags.patient, classes=bags.classes,
        feature_count=FEATURES, load=lambda _: np.full((3, FEATURES), np.nan, dtype=np.float32),
    )  # fmt: skip
    with pytest.raises(TrainingError, match="no number"):
        fit(recipe(epochs=1), broken, halves(8), CPU, Steps())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=2, max_size=15))
def test_the_threshold_is_the_best_there_is(pairs: list[tuple[float, bool]]) -> None:
    prob = torch.tensor([p for p, _ in pairs], dtype=torch.float32)
    label = torch.tensor([int(truth) for _, truth in pairs])

    def accuracy(value: float) -> float:
        decided = (prob.double() >= value).long()
        return float(
            np.mean([(decided[label == v] == v).double().mean() for v in set(label.tolist())])
        )

    chosen = choose_threshold(prob, label)
    grid = [0.5, *(float(a + b) / 2 for a in prob.double() for b in prob.double() if a != b)]
    assert 0 <= chosen <= 1
    assert accuracy(chosen) == pytest.approx(max(accuracy(value) for value in grid))


def test_a_run_keeps_its_models_and_its_report(tmp_path: Path) -> None:
    bags, marked = make_bags(40)
    steps = Steps()
    outcome = run_mil(recipe(epochs=8), bags, tmp_path / "run", CPU, steps)
    assert steps.done == steps.total
    assert outcome.result.summary()["accuracy"].mean >= 0.85
    for name in ("recipe.json", "predictions.csv", "report.json", "report.md", "report.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    accuracies = [fold["evaluation"]["accuracy"] for fold in report["folds"]]
    assert report["summary"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert report["summary"]["accuracy"]["deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    with (tmp_path / "run" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["slide_id"] for row in rows] == list(bags.slide_ids)
    folds = {(row["patient"], row["fold"]) for row in rows}
    assert len(folds) == len(set(bags.patient))
    # what the table says of a slide is what the saved model of its fold says
    held = rows[1]
    model = load_slide_model(tmp_path / "run" / "folds" / held["fold"])
    judged = judge_slide(model, held["slide_id"], bags.load(held["slide_id"]), None)
    assert judged.prob[1] == pytest.approx(float(held["prob_tumour"]), abs=1e-5)
    assert model.config.class_names[judged.label] == held["predicted"]
    assert int(judged.attention[:, 0].argmax()) == marked[held["slide_id"]]
    with pytest.raises(TrainingError, match="holds a run"):
        run_mil(recipe(), bags, tmp_path / "run", CPU, steps)


def test_a_run_that_was_stopped_goes_on_with_the_next_fold(tmp_path: Path) -> None:
    bags, _ = make_bags(24, 12)
    chosen = recipe(folds=3, epochs=4)
    with pytest.raises(KeyboardInterrupt):
        run_mil(chosen, bags, tmp_path / "stopped", CPU, Stopping(9))
    unfinished = tmp_path / "stopped" / "unfinished"
    assert sorted(path.name for path in unfinished.iterdir()) == ["fold-1.ckpt", "fold-2.ckpt"]
    before = (unfinished / "fold-1.ckpt").stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        run_mil(chosen, bags, tmp_path / "stopped", CPU, Stopping(11))
    assert (unfinished / "fold-1.ckpt").stat().st_mtime_ns == before
    steps = Steps()
    run_mil(chosen, bags, tmp_path / "stopped", CPU, steps)
    assert steps.done == steps.total
    assert not unfinished.exists()
    run_mil(chosen, bags, tmp_path / "straight", CPU, Steps())
    for name in ("predictions.csv", "folds/1/model.safetensors", "model/model.safetensors"):
        stopped, straight = (tmp_path / run / name for run in ("stopped", "straight"))
        assert stopped.read_bytes() == straight.read_bytes(), name


def test_within_a_fold_a_run_goes_on_with_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "FIRST_SECONDS", 0)
    monkeypatch.setattr(kept, "REST", 0)
    bags, _ = make_bags(12, 6)
    chosen = recipe(folds=2, epochs=6)
    # dropout draws from torch's generator, the order of slides from numpy's
    model = chosen.model.model_copy(update={"dropout": 0.5})
    chosen = chosen.model_copy(update={"model": model})
    trained: list[str] = []

    def load(name: str) -> NDArray[np.float32]:
        trained.append(name)
        return bags.load(name)

    counted = replace(bags, load=load)
    for after in (4, 11):  # in the first fold, and in the second
        with pytest.raises(KeyboardInterrupt):
            run_mil(chosen, counted, tmp_path / "stopped", CPU, Stopping(after))
    before = len(trained)
    steps = Steps()
    run_mil(chosen, counted, tmp_path / "stopped", CPU, steps)
    assert steps.done == steps.total == 18
    again = len(trained) - before
    trained.clear()
    run_mil(chosen, counted, tmp_path / "straight", CPU, Steps())
    assert again < 0.7 * len(trained), "epochs were trained anew"
    for name in ("predictions.csv", "report.json", "folds/2/model.safetensors"):
        stopped, straight = (tmp_path / run / name for run in ("stopped", "straight"))
        assert stopped.read_bytes() == straight.read_bytes(), name


def test_a_run_killed_while_it_is_written_is_not_taken_for_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bags, _ = make_bags(12, 6)
    chosen, out = recipe(folds=2, epochs=1), tmp_path / "run"

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cross_validation, "write_recipe", die)
        with pytest.raises(KeyboardInterrupt):
            run_mil(chosen, bags, out, CPU, Steps())
    (out / "unfinished" / "fold-1.ckpt").write_bytes(b"damaged")
    run_mil(chosen, bags, out, CPU, Steps())
    assert load_slide_model(out / "folds" / "2").config.name == "small"


def test_folds_of_another_recipe_are_not_taken_up(tmp_path: Path) -> None:
    bags, _ = make_bags(24, 12)
    with pytest.raises(KeyboardInterrupt):
        run_mil(recipe(folds=3, epochs=4), bags, tmp_path / "run", CPU, Stopping(9))
    other = recipe(folds=3, epochs=5)
    run_mil(other, bags, tmp_path / "run", CPU, Steps())
    run_mil(other, bags, tmp_path / "straight", CPU, Steps())
    name = "folds/1/model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_model_judges_other_slides_and_refuses_other_features(tmp_path: Path) -> None:
    bags, _ = make_bags(24, 12)
    run_mil(recipe(folds=3, epochs=8), bags, tmp_path / "run", CPU, Steps())
    model = load_slide_model(tmp_path / "run" / "model")
    others, _ = make_bags(20, seed=9)
    evaluation, files = evaluate_slide_model(model, others, tmp_path / "out", title="others")
    assert evaluation.accuracy >= 0.8
    assert "20 slides" in files["md"].read_text()
    judged = [judge_slide(model, "a", others.load("slide-1"), "any")]
    write_judgements(tmp_path / "p.csv", judged, model.config.class_names)
    assert (tmp_path / "p.csv").read_text().startswith("slide_id,predicted,prob_normal,prob_tumour")
    with pytest.raises(BundleError, match="takes 6"):
        judge_slide(model, "a", np.zeros((3, 7), dtype=np.float32), None)
    with pytest.raises(BundleError, match="no patches"):
        judge_slide(model, "a", np.zeros((0, 6), dtype=np.float32), None)


def test_labels_are_read_as_people_write_them(tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text("\ufeffslide_id,case_id,label\na ,p1,tumour\nb,p1,\nc,p2, normal\n")
    rows = read_slide_labels(table)
    assert rows == (
        SlideLabel(slide_id="a", label="tumour", patient="p1"),
        SlideLabel(slide_id="c", label="normal", patient="p2"),
    )
    assert order_classes(rows, None) == ("normal", "tumour")
    assert order_classes(rows, "normal") == ("tumour", "normal")
    with pytest.raises(TrainingError, match="labelled 'stroma'"):
        order_classes(rows, "stroma")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("slide_id,label\na,x\n", "needs slide_id, label and patient"),
        ("slide_id,label,patient\na,x,p\na,y,p\n", "more than once: a"),
        ("slide_id,label,patient\na,,p\n", "labels no slide"),
        ("slide_id,label,patient\na,NA,p\n", "labels no slide"),
        ("slide_id,label,patient\na,x,NA\n", "line 2, column patient: has no value"),
        ("slide_id,label,patient\n,x,p\n", "line 2, column slide_id: has no value"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "slides.csv").write_text(text)
    with pytest.raises(TrainingError, match=match):
        read_slide_labels(tmp_path / "slides.csv")


def test_slides_without_features_are_left_out_and_others_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [
        SlideLabel(slide_id=name, label="xy"[i % 2], patient=name) for i, name in enumerate("abcd")
    ]

    def load(_: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return np.zeros((2, 4), dtype=np.float32)

    described = {"a": Described(2, 4), "b": Described(2, 4), "c": Described(0, 4)}
    bags = bags_module.make_bags(rows, described, load)
    assert bags.slide_ids == ("a", "b")
    assert bags.left_out == ("c", "d")
    assert "2 of 4" in caplog.text
    with pytest.raises(TrainingError, match=r"4 features per patch, but not b \(5\)"):
        bags_module.make_bags(
            rows[:3], described | {"b": Described(2, 5), "c": Described(1, 4)}, load
        )
    with pytest.raises(TrainingError, match="come from one encoder"):
        bags_module.make_bags(
            rows, {"a": Described(2, 4, "one"), "b": Described(2, 4, "two")}, load
        )
    with pytest.raises(TrainingError, match="none of the 4"):
        bags_module.make_bags(rows, {"other": Described(2, 4)}, load)
    with pytest.raises(TrainingError, match="at least two classes"):
        bags_module.make_bags(rows[:1], described, load)


def test_flags_beat_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mil.toml"
    file.write_text('name = "mine"\n[model]\nmodel = "dsmil"\nattention = 7\n[train]\nfolds = 3\n')
    kept = load_mil_recipe(file, {"model": "dsmil", "epochs": 5})
    other = load_mil_recipe(file, {"model": "abmil", "folds": 2})
    assert kept.model.model == "dsmil"
    assert kept.model.attention == 7
    assert (kept.train.folds, kept.train.epochs) == (3, 5)
    assert (other.model.model, other.train.folds, other.name) == ("abmil", 2, "mine")
    file.write_text("[train]\nfold = 3\n")
    with pytest.raises(TrainingError, match=r"train\.fold"):
        load_mil_recipe(file)


def test_the_recipe_of_the_examples_holds() -> None:
    assert load_mil_recipe(find_recipe("mil")).model.model == "abmil"
