"""A split that was drawn -> what its parts lack, in words that name class and patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsi_models.splits import PARTS, Indices, Split, SplitConfig


def describe_gaps(
    split: Split, label: Indices, group: Sequence[str], classes: Sequence[str], config: SplitConfig
) -> tuple[list[str], list[str]]:
    """Say which classes a part of a split that was drawn lacks, and in which patients they are.

    Parameters
    ----------
    split : Split
        The division.
    label, group
        As in :func:`split_by_group`.
    classes : sequence of str
        Name of each label.
    config : SplitConfig
        Which parts there are to be.

    Returns
    -------
    errors : list of str
        Gaps that nothing can be trained or judged with: a class that does not train, or a part
        without any label.
    warnings : list of str
        Classes that cannot be selected by or tested.
    """
    shares = {"train": 1.0, "validation": config.validation, "test": config.test}
    indices = {"train": split.labelled, "validation": split.validation, "test": split.test}
    wanted = [part for part in PARTS if shares[part] > 0]
    names = np.asarray(group, dtype=str)
    errors: list[str] = []
    warnings: list[str] = []
    for value, name in enumerate(classes):
        lacking = [part for part in wanted if not (label[indices[part]] == value).any()]
        patients = np.unique(names[label == value]).tolist()
        if not lacking or not patients:
            continue
        fatal = "train" in lacking or any(not len(indices[part]) for part in lacking)
        (errors if fatal else warnings).append(_describe_gap(name, patients, lacking, len(wanted)))
    return errors, warnings


def _describe_gap(name: str, patients: list[str], lacking: list[str], parts: int) -> str:
    missing = " and ".join(lacking)
    if len(patients) == 1:
        found = f"class {name} is annotated in one patient only ({patients[0]})"
    else:
        found = f"class {name} is annotated in {len(patients)} patients ({', '.join(patients[:5])})"
    advice = "change the seed of the split"
    if len(patients) < parts:
        more = parts - len(patients)
        advice = f"annotate it in {more} more patient{'' if more == 1 else 's'}"
    return (
        f"{found}, and {missing} {'has' if len(lacking) == 1 else 'have'} none of it: {advice}, or "
        "set the shares of validation and test in the recipe"
    )
