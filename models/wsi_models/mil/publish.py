"""A trained head and how it was judged -> the folder of a model, with its card.

What such a folder holds is the business of :mod:`wsi_models.mil.bundle`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_models.bundle import TrainingFacts
from wsi_models.mil.bundle import SlideModelConfig, save_slide_model

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_models.mil.bags import Bags
    from wsi_models.mil.config import MilRecipe
    from wsi_models.mil.epochs import Fitted
    from wsi_models.mil.report import CrossValidation


def publish_slide_model(
    folder: Path,
    recipe: MilRecipe,
    bags: Bags,
    fitted: Fitted,
    result: CrossValidation,
    fold: int | None = None,
) -> None:
    """Write the model of a fold, or that of all slides.

    Parameters
    ----------
    folder : Path
        The folder to make.
    recipe : MilRecipe
        What was done.
    bags : Bags
        The slides.
    fitted : Fitted
        The trained head.
    result : CrossValidation
        How good such models are.
    fold : int or None
        Index of the fold whose slides it was not trained on; None if it was trained on all.
    """
    if fold is None:
        used = f"all {len(bags)} slides"
        judged = "cross-validation; this model itself was not tested"
        metrics = {name: spread.mean for name, spread in result.summary().items()}
    else:
        used = f"the slides outside fold {fold + 1}"
        judged = f"the slides of fold {fold + 1}"
        metrics = result.folds[fold].evaluation.headline()
    data = f"{used}; {len(set(bags.patient))} patients in all; classes {', '.join(bags.classes)}"
    config = SlideModelConfig(
        name=recipe.name,
        model=recipe.model,
        feature_count=bags.feature_count,
        encoder=bags.encoder,
        class_names=bags.classes,
        threshold=fitted.threshold,
        training=TrainingFacts(
            loss=f"that of {recipe.model.model}", data=data, seed=recipe.train.seed, metrics=metrics
        ),
    )
    # what a run that was killed had published is published anew
    save_slide_model(folder, config, fitted.head, _card(recipe, config, judged), overwrite=True)


def _card(recipe: MilRecipe, config: SlideModelConfig, judged: str) -> str:
    figures = "\n".join(
        f"| {name.replace('_', ' ')} | {value:.4f} |"
        for name, value in config.training.metrics.items()
    )
    return f"""# {config.name}

A classifier of whole slides ({config.model.model}) from {config.feature_count} features per patch.

**Data.** {config.training.data}. Its licence and its limits are those of that data.

**Results**, by {judged}:

| figure | value |
|---|---|
{figures}

**Limits.** Attention says where a model looked, not where disease is. Measured on slides like
those it was trained on, and on nothing else. Not for diagnosis.

## Recipe

```json
{recipe.model_dump_json(indent=1)}
```
"""
