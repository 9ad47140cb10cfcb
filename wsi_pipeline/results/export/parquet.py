"""Predictions <-> a Parquet table with one row per tile.

The table stands alone: all that is needed to rebuild :class:`Predictions` is in its columns and
the metadata of its schema. Nothing else of a slide is written.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsi_pipeline.errors import PredictionsError
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.types import Origin, Predictions

METADATA_KEY = b"wsi_pipeline"
SCHEMA = 2
"""Tables of schema 1 have no checksum and are read too."""


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions as a table.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced in one step.
    predictions : Predictions
        Of one slide; N = 0 gives a table without rows.

    Notes
    -----
    Columns: ``x``, ``y`` (top-left corner, level-0 px, int64), ``extent`` (side, level-0 px),
    ``row``, ``col`` (lattice index), ``prob_<class>`` (float32) per class, ``label`` (the most
    probable class) and ``entropy`` (nats). Where it is known, ``piece`` (number of the piece of
    tissue), ``core`` (name of the core of a tissue microarray), ``distance`` (from the tiles the
    model was trained on; 1 is the 99th percentile of these), and in front ``slide_id``, ``mpp`` (um
    per level-0 px) and ``run_id`` (what decided the predictions), so that tables of several slides
    can be joined.
    """
    names = np.array(predictions.class_names, dtype=object)
    columns: dict[str, Any] = _origin_columns(predictions)
    columns |= {
        "x": pa.array(predictions.xy[:, 0]),
        "y": pa.array(predictions.xy[:, 1]),
        "extent": pa.array(np.full(len(predictions), predictions.extent)),
        "row": pa.array(predictions.rc[:, 0]),
        "col": pa.array(predictions.rc[:, 1]),
    }
    for index, name in enumerate(predictions.class_names):
        columns[f"prob_{name}"] = pa.array(np.ascontiguousarray(predictions.prob[:, index]))
    columns["label"] = pa.array(names[predictions.label], type=pa.string())
    columns["entropy"] = pa.array(predictions.entropy)
    if predictions.piece is not None:
        columns["piece"] = pa.array(predictions.piece)
    if predictions.core is not None:
        columns["core"] = pa.array(predictions.core, type=pa.string())
    if predictions.distance is not None:
        columns["distance"] = pa.array(predictions.distance)
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: _metadata(predictions)})
    with replace_atomically(path) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


def read_predictions(path: Path) -> Predictions:
    """Read what :func:`write_predictions` wrote.

    Parameters
    ----------
    path : Path
        The table.

    Returns
    -------
    Predictions
        Equal to those written, bit by bit.

    Raises
    ------
    PredictionsError
        If the file is missing, damaged, not Parquet, or not a table of predictions.
    """
    try:
        table = pq.read_table(path, memory_map=True, page_checksum_verification=True)
        return _parse(table)
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise PredictionsError(
            f"{path} is not a table of predictions ({error}); give a predictions.parquet made by "
            f"'wsi-pipeline predict' or 'run'"
        ) from error


def _origin_columns(predictions: Predictions) -> dict[str, Any]:
    """Repeat what is the same for all tiles, which takes no room in the file."""
    origin = predictions.origin
    if origin is None:
        return {}
    same = {"slide_id": origin.slide_id, "mpp": origin.mpp, "run_id": origin.run_id}
    return {name: pa.repeat(value, len(predictions)) for name, value in same.items()}


def _metadata(predictions: Predictions) -> str:
    about = _about(predictions)
    return json.dumps({"schema": SCHEMA, **about, "checksum": _checksum(predictions)})


def _about(predictions: Predictions) -> dict[str, Any]:
    origin = predictions.origin
    optional = {"doubts": predictions.doubts, "cores": predictions.cores}
    return {
        **{name: values for name, values in optional.items() if values},
        "origin": None if origin is None else asdict(origin),
        "class_names": predictions.class_names,
        "class_colors": predictions.class_colors,
        "shape": predictions.shape,
        "extent": predictions.extent,
        "pitch": predictions.pitch,
    }


def _checksum(predictions: Predictions) -> str:
    """Digest all that predictions consist of, whatever bytes a file has them in.

    The checksums of Parquet are those of pages: its footer, with the names of columns and what
    stands beside them, has none.
    """
    digest = hashlib.sha256(json.dumps(_about(predictions), sort_keys=True).encode())
    for values, dtype in (
        (predictions.prob, "<f4"),
        (predictions.xy, "<i8"),
        (predictions.rc, "<i4"),
        (predictions.piece, "<i4"),
        (predictions.distance, "<f4"),
    ):
        if values is not None:
            digest.update(f"{dtype} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values, dtype=dtype).data)
    return digest.hexdigest()


def _parse(table: pa.Table) -> Predictions:
    about = json.loads((table.schema.metadata or {})[METADATA_KEY])
    if about["schema"] not in (1, SCHEMA):
        raise ValueError(f"schema {about['schema']}, this version reads {SCHEMA}")
    rows, cols = about["shape"]
    names = tuple(about["class_names"])
    prob = np.empty((table.num_rows, len(names)), dtype=np.float32)
    for index, name in enumerate(names):
        prob[:, index] = table[f"prob_{name}"].to_numpy()
    predictions = Predictions(
        prob=prob,
        xy=np.column_stack([table[name].to_numpy() for name in ("x", "y")]).astype(np.int64),
        rc=np.column_stack([table[name].to_numpy() for name in ("row", "col")]).astype(np.int32),
        shape=(rows, cols),
        extent=about["extent"],
        pitch=about["pitch"],
        class_names=names,
        class_colors=tuple(about["class_colors"]),
        origin=_origin(about.get("origin")),
        piece=_column(table, "piece"),
        distance=_column(table, "distance"),
        cores=tuple(about.get("cores", ())),
        doubts=tuple(about.get("doubts", ())),
    )
    if about["schema"] == SCHEMA and about["checksum"] != _checksum(predictions):
        raise ValueError("it is damaged: its content does not agree with its checksum")
    return predictions


def _column(table: pa.Table, name: str) -> NDArray[Any] | None:
    return table[name].to_numpy() if name in table.column_names else None


def _origin(values: dict[str, Any] | None) -> Origin | None:
    """Rebuild what the predictions were made of; older tables do not say."""
    return None if values is None else Origin(**values)
