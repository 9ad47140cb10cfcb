"""Result of a slide -> AnnData, one row per tile, as scanpy and squidpy read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsi_pipeline.errors import ExportError
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.results.export.optional import import_optional
from wsi_pipeline.results.export.registry import Export
from wsi_pipeline.results.heatmap import lay_cells, one_per_place
from wsi_pipeline.store.features import read_features

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

    from wsi_pipeline.results.slide_result import SlideResult
    from wsi_pipeline.types import Predictions


def write_anndata(path: Path, result: SlideResult) -> None:
    """Write the tiles of a slide as an ``.h5ad`` file.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced in one step.
    result : SlideResult
        Of one slide, with features if they are to be the matrix.

    Raises
    ------
    ExportError
        If anndata is not installed, or the features are not those of the tiles.
    """
    with replace_atomically(path) as partial:
        build_anndata(result).write_h5ad(partial, compression="gzip")


def build_anndata(result: SlideResult, *, per_place: bool = False) -> AnnData:
    """Gather the tiles of a slide.

    Parameters
    ----------
    result : SlideResult
        Of one slide.
    per_place : bool
        Whether a row is a place, where tiles overlap: a cell of the lattice with the means of the
        tiles that cover it.

    Returns
    -------
    AnnData
        ``X`` are the features, or the probabilities where there are none. ``obs`` has ``slide_id``,
        ``row``, ``col``, ``x``, ``y`` (top-left corner, level-0 px), ``label``, ``entropy``,
        ``tissue_fraction``, ``piece``, ``core`` on a tissue microarray, ``stain_verdict`` and
        ``prob_<class>``. ``obsm`` has the centres of the tiles, ``spatial`` in level-0 px and
        ``spatial_um`` in um. ``uns`` has ``wsi_pipeline``, where it all is from, as JSON, and
        ``spatial``, the thumbnail as squidpy looks for it.
    """
    records = result.records
    matrix, names = _matrix(result)
    found, tissue, pieces = result.predictions, records.tissue_fraction, result.tile_pieces
    cells = lay_cells(found) if per_place else None
    if cells is not None:
        matrix = cells.means(matrix, found)
        tissue = cells.means(tissue[:, np.newaxis], found)[:, 0]
        found = one_per_place(found)
        pieces = result.pieces.nearest(found.xy + found.extent / 2)
    tiles = _tiles(result, found, tissue, pieces)
    data = gather_tiles(matrix, names, tiles, found.xy + found.extent / 2, result.mpp)
    scale = records.thumbnail.shape[1] / records.slide.size_wh[0]
    data.uns["wsi_pipeline"] = json.dumps(result.provenance())
    data.uns["spatial"] = {
        result.slide_id.replace("/", "_"): {
            "images": {"lowres": records.thumbnail},
            "scalefactors": {
                "tissue_lowres_scalef": scale,
                "spot_diameter_fullres": float(found.extent),
            },
        }
    }
    return data


def gather_tiles(
    matrix: NDArray[np.float32],
    names: Sequence[str],
    tiles: pd.DataFrame,
    centres: NDArray[np.floating],
    mpp: float,
) -> AnnData:
    """Make the AnnData of the tiles of a slide.

    Parameters
    ----------
    matrix : ndarray of shape (N, M), float32
        A row per tile.
    names : sequence of M str
        Its columns.
    tiles : DataFrame
        A row per tile, with ``x`` and ``y`` (top-left corner, level-0 px) among its columns.
    centres : ndarray of shape (N, 2)
        Centres of the tiles, level-0 px.
    mpp : float
        Resolution at level 0, um/px.

    Raises
    ------
    ExportError
        If anndata is not installed.
    """
    anndata = import_optional("anndata", "anndata")
    import pandas as pd  # comes with anndata

    data: AnnData = anndata.AnnData(
        X=matrix,
        obs=tiles,
        var=pd.DataFrame(index=pd.Index(names, dtype=object)),
        obsm={"spatial": centres, "spatial_um": centres * mpp},
    )
    return data


def _tiles(
    result: SlideResult,
    found: Predictions,
    tissue_fraction: NDArray[np.float32],
    pieces: NDArray[np.int32],
) -> pd.DataFrame:
    import pandas as pd

    count = len(found)
    verdict = str(result.records.stain.verdict)
    columns = {
        "slide_id": categories([0] * count, [result.slide_id]),
        "row": found.rc[:, 0],
        "col": found.rc[:, 1],
        "x": found.xy[:, 0],
        "y": found.xy[:, 1],
        "label": categories(found.label, found.class_names),
        "entropy": found.entropy,
        "tissue_fraction": tissue_fraction,
        "piece": pieces,
        "stain_verdict": categories([0] * count, [verdict]),
    }
    if any(result.cores):
        columns["core"] = _cores(result.cores, pieces)
    for index, name in enumerate(found.class_names):
        columns[f"prob_{name}"] = found.prob[:, index]
    names = [f"{result.slide_id}_{row}_{col}" for row, col in found.rc.tolist()]
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def _cores(names: Sequence[str], pieces: NDArray[np.int32]) -> pd.Categorical:
    """Name the core of each tile; missing where its piece is none."""
    known = sorted({name for name in names if name})
    codes = np.array([known.index(name) if name else -1 for name in names])
    return categories(codes[pieces - 1], known)


def categories(codes: ArrayLike, names: Sequence[str]) -> pd.Categorical:
    """Make a column of a few names; as Python strings, the only ones all readers know."""
    import pandas as pd

    return pd.Categorical.from_codes(np.asarray(codes), pd.Index(names, dtype=object))


def _matrix(result: SlideResult) -> tuple[NDArray[np.float32], list[str]]:
    found = result.predictions
    if result.features is None:
        return found.prob, list(found.class_names)
    features = read_features(result.features)
    if features.xy is None or not np.array_equal(features.xy, found.xy):
        raise ExportError(
            f"{result.features} has not the features of the {len(found)} tiles of "
            f"{result.slide_id}; compute them anew with 'wsi-pipeline features'"
        )
    return features.features, [f"feature_{n}" for n in range(features.features.shape[1])]


ANNDATA = Export(file="tiles.h5ad", write=write_anndata)
