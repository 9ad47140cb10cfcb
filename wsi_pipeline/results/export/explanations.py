"""What each stain says of the patches of a slide -> a Parquet table with one row per tile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.files import replace_atomically

if TYPE_CHECKING:
    from wsi_pipeline.types import StainExplanations


def write_explanations(path: Path, found: StainExplanations) -> None:
    """Write the parts of the stains as a table.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced in one step.
    found : StainExplanations
        Of one slide; N = 0 gives a table without rows.

    Notes
    -----
    Columns: ``x``, ``y`` (top-left corner, level-0 px), ``extent`` (side, level-0 px), ``row``,
    ``col`` (lattice index), ``label`` (the most probable class), ``label_hematoxylin`` and
    ``label_eosin`` (how far the stain puts the label above the mean of all classes), and, per
    class, ``hematoxylin_<class>`` and ``eosin_<class>``, whose sum is its logit. Other stains than
    H/E give their names.
    """
    names = np.array(found.class_names, dtype=object)
    columns: dict[str, Any] = {
        "x": pa.array(found.xy[:, 0]),
        "y": pa.array(found.xy[:, 1]),
        "extent": pa.array(np.full(len(found), found.extent)),
        "row": pa.array(found.rc[:, 0]),
        "col": pa.array(found.rc[:, 1]),
        "label": pa.array(names[found.label], type=pa.string()),
    }
    for stain, name in enumerate(found.stain_names):
        columns[f"label_{name}"] = pa.array(np.ascontiguousarray(found.lead[:, stain]))
    for stain, name in enumerate(found.stain_names):
        for index, class_name in enumerate(found.class_names):
            values = np.ascontiguousarray(found.parts[:, stain, index])
            columns[f"{name}_{class_name}"] = pa.array(values)
    with replace_atomically(path) as partial:
        pq.write_table(pa.table(columns), partial, compression="zstd")
