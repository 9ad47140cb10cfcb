"""Annotated areas and the features of tiles -> probabilities of every tile, judged and explained.

A frozen encoder sees each tile once. What is learnt from labels afterwards is one linear layer,
so that a new stroke of the brush is answered while the person watches.
"""

from __future__ import annotations

from wsi_pipeline.learn.features import compute_features
from wsi_pipeline.learn.folder import FolderLearning, learn_folder
from wsi_pipeline.learn.head import Head, Projection, fit_head, fit_projection
from wsi_pipeline.learn.judge import Judgement, judge_by_group
from wsi_pipeline.learn.session import ClassName, Learned, SlideLabels, learn, predict_tiles
from wsi_pipeline.learn.strokes import LabelledTiles, label_by_strokes
from wsi_pipeline.learn.suggest import suggest_tiles
from wsi_pipeline.learn.training_store import write_training_store

__all__ = [
    "ClassName",
    "FolderLearning",
    "Head",
    "Judgement",
    "LabelledTiles",
    "Learned",
    "Projection",
    "SlideLabels",
    "compute_features",
    "fit_head",
    "fit_projection",
    "judge_by_group",
    "label_by_strokes",
    "learn",
    "learn_folder",
    "predict_tiles",
    "suggest_tiles",
    "write_training_store",
]
