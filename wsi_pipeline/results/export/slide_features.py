"""Files of features -> a table with the mean vector of each slide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from wsi_pipeline.errors import ConfigError, FeaturesError
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.store.features import read_features
from wsi_pipeline.store.passport import KEY
from wsi_pipeline.store.verify_features import verify_features


def write_slide_means(path: Path, files: Mapping[str, Path]) -> Path:
    """Average the vectors of each slide and write them as a table.

    Parameters
    ----------
    path : Path
        ``.csv`` or ``.parquet``.
    files : mapping of str to Path
        Files of features by slide.

    Returns
    -------
    Path
        ``path``: one row per slide that has patches, with ``slide_id``, ``patches`` and
        ``feature_0``, ``feature_1``, ...; in Parquet with the passport of the first as metadata.

    Raises
    ------
    FeaturesError
        If the files may not be mixed, or vectors differ in length.
    ConfigError
        If the table is neither CSV nor Parquet.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"{path} must end in .csv or .parquet")
    verdict = verify_features(files)
    if any(difference.forbids for difference in verdict.differences):
        raise FeaturesError(f"{verdict}; average those of each encoder on their own")
    table = _table(files)
    with replace_atomically(path) as partial:
        if path.suffix == ".csv":
            pa_csv.write_csv(table, partial)
        else:
            pq.write_table(table, partial)
    return path


def _table(files: Mapping[str, Path]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    metadata: dict[str, str] = {}
    width: int | None = None
    for slide_id, file in files.items():
        found = read_features(file)
        count, length = found.features.shape
        if width not in (None, length):
            raise FeaturesError(
                f"{file} has vectors of {length} numbers, others of {width}; average those of "
                "each encoder on their own"
            )
        width = length
        if found.passport is not None:
            metadata.setdefault(KEY, found.passport.to_json())
        if count:
            # in double precision, so that the mean of many patches is not lost in rounding
            mean = found.features.mean(axis=0, dtype="float64").astype("float32")
            named = {f"feature_{index}": value for index, value in enumerate(mean.tolist())}
            rows.append({"slide_id": slide_id, "patches": count, **named})
    names = [f"feature_{index}" for index in range(width or 0)]
    schema = pa.schema(
        [("slide_id", pa.string()), ("patches", pa.int64()), *((n, pa.float32()) for n in names)]
    )
    return pa.Table.from_pylist(rows, schema=schema).replace_schema_metadata(metadata or None)
