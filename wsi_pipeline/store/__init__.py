"""The patch store: one Zarr v3 group per slide that holds its H/E patches and all they rest on.

Knows the schema, writes shard by shard, resumes, seals and verifies; it neither reads slides nor
unmixes stains. This package is the only one that imports zarr.

Where patches are not kept (``run --no-store``), ``slide.zarr`` is the same group without ``he`` and
``rgb``.

Schema 1
--------
N patches of P px, in row-major order of the lattice (of the candidates, off it):

==================  ====================  =======  ==============================================
array               shape                 dtype    content
==================  ====================  =======  ==============================================
``he``              (N, 2, P, P)          uint8    H then E; v / 255 = clip(c / (2 max), 0, 1);
                                                   float16 (the value itself) on request
``rgb``             (N, P, P, 3)          uint8    only on request
``xy``              (N, 2)                int64    top-left corners (x, y), level-0 px
``rc``              (N, 2)                int32    lattice indices (row, col)
``tissue_fraction`` (N,)                  float32  share of the tile that is tissue
``reasons``         (rows, cols)          uint8    ``TileReason`` of every candidate tile
``corners``         (rows, cols, 2)       int64    only off the lattice: top-left corner (x, y) of
                                                   every candidate, px of the level read
``tissue_mask``     (h, w)                uint8    ``Area`` of every mask pixel
``thumbnail``       (h, w, 3)             uint8    RGB
``label``           (N,)                  int16    optional; index into ``label_names``, -1 unknown
``group``           (N,)                  int32    optional; index into ``group_names``
``stain_index``     (N,)                  int32    optional; index into ``stains``
==================  ====================  =======  ==============================================

``he`` and ``rgb`` lie in shards, one file each, of compressed chunks; every chunk and every shard
index carries a CRC-32C. Attributes of the group:

=====================  ==========================================================================
``format``, ``schema``   what this is, and the number of this schema
``slide``                :class:`~wsi_pipeline.types.SlideInfo`
``grid``                 level, downsample, read_px, step_px, patch_px, mpp, shape, extent, pitch
``funnel``               candidate tiles by reason
``stain``                convention, matrix, verdict, reasons, pixel_count, angles, condition
``mask_downsample``      level-0 px per pixel of ``tissue_mask``, in x and y
``config``               configuration of every preprocessing stage
``config_hash``          hash of what in ``config`` decides the patches
``fingerprint``          fingerprint of the slide file
``checksums``            SHA-256 of the header of each array, and of these attributes without it
``versions``             packages that wrote the store
``label_names``          classes, where ``label`` is stored
``group_names``          patients or prototypes, where ``group`` is stored
``stains``               as ``stain``, per slide, where patches of several slides were ingested
=====================  ==========================================================================
"""

from __future__ import annotations

from wsi_pipeline.store.reading import PatchStore
from wsi_pipeline.store.records import StoreRecords, write_records
from wsi_pipeline.store.schema import StoreHeader, package_versions
from wsi_pipeline.store.writing import Shard, StoreWriter, has_store

__all__ = [
    "PatchStore",
    "Shard",
    "StoreHeader",
    "StoreRecords",
    "StoreWriter",
    "has_store",
    "package_versions",
    "write_records",
]
