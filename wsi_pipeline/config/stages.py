"""What can be set: one frozen model per stage of the flow.

Help, unit, default and range of every option stand here and nowhere else; the command line is
generated from the fields.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from wsi_pipeline.config.choices import (
    DamagedTiles,
    HeValues,
    LabelMode,
    LabelTiles,
    Overlaps,
    Precision,
    ReaderName,
    SmallPolygons,
    Unmapped,
)
from wsi_pipeline.registry import Registry
from wsi_pipeline.types import StainPair

MIN_MPP, MAX_MPP = 0.01, 1000.0
"""What a resolution of slides can be, um/px: past both ends it is a slip of the unit, and work on
it would not end."""

READERS: Registry[Any] = Registry(
    "slide reader",
    "wsi_pipeline.readers",
    {
        "tiff": "wsi_pipeline.slide.readers.tiff:FORMAT",
        "openslide": "wsi_pipeline.slide.readers.openslide:FORMAT",
    },
)
"""The readers of slides, in the order in which they are asked: decoding TIFF tiles directly is
several times faster, OpenSlide opens nearly everything, and installed packages open the rest."""


class StageConfig(BaseModel):
    """Base of the stage configurations: immutable, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_enum_values=False, allow_inf_nan=False
    )


class ReadConfig(StageConfig):
    """How slides are opened."""

    reader: str = Field(
        ReaderName.AUTO.value,
        description="What opens the slides: auto, tiff, openslide, or a reader of an installed "
        "package.",
    )
    slide_mpp: float | None = Field(
        None,
        ge=MIN_MPP,
        le=MAX_MPP,
        description="Resolution at level 0, um/px, for slides that do not state it.",
    )

    @field_validator("reader")
    @classmethod
    def _is_known(cls, name: str) -> str:
        known = (ReaderName.AUTO.value, *READERS.names)
        if name not in known:
            raise ValueError(f"there is no such reader; choose one of {', '.join(known)}")
        return str(name)


class TissueConfig(StageConfig):
    """How tissue is told from glass, pen, black borders and glass edges."""

    segmenter: str = Field(
        "classic",
        description="What tells tissue: classic, by limits on colour and size; onnx:FILE, a "
        "network with a TOML file beside it; or the name of one that an installed package brings.",
    )
    mask_mpp: float = Field(
        8.0, ge=MIN_MPP, le=MAX_MPP, description="Resolution of the tissue mask, um/px."
    )
    min_tissue_um2: float = Field(
        20_000.0, ge=0, description="Smallest piece of tissue kept, um^2."
    )
    max_hole_um2: float = Field(
        10_000.0, ge=0, description="Largest hole in tissue that is filled, um^2."
    )
    reject_pen: bool = Field(True, description="Leave out green, blue, red and black pen marks.")
    reject_edges: bool = Field(True, description="Leave out black borders and glass edges.")


class TileConfig(StageConfig):
    """Which tiles are cut."""

    mpp: float = Field(0.5, ge=MIN_MPP, le=MAX_MPP, description="Resolution of the patches, um/px.")
    patch_size: int = Field(256, ge=8, le=4096, description="Side of a patch, px.")
    allow_upsampling: bool = Field(
        False,
        description="Enlarge slides that are coarser than the patches; they are refused otherwise.",
    )
    stride: int | None = Field(
        None, ge=1, description="Distance between tiles, px at --mpp; the patch size if not given."
    )
    cover_remainder: bool = Field(
        False,
        description="Shift the last row and column of tiles inwards, so that they cover what is "
        "left of a slide at its right and bottom; it is left out otherwise, and counted.",
    )
    damaged_tiles: DamagedTiles = Field(
        DamagedTiles.ERROR,
        description="Tiles whose pixels cannot be read: fail the slide, or drop them, count them "
        "and flag the slide. To drop them every tile is read twice.",
    )
    min_tissue: float = Field(
        0.5, ge=0, le=1, description="Smallest share of a tile that must be tissue."
    )
    max_pen: float = Field(0.02, ge=0, le=1, description="Largest share of a tile that may be pen.")
    min_sharpness: float | None = Field(
        None,
        ge=0,
        description="Drop tiles whose sharpness (variance of the Laplacian of grey levels at "
        "twice --mpp) is below this; not measured if not given.",
    )


class LabelConfig(StageConfig):
    """Which class the tiles of an annotated slide get, and which of them are kept."""

    label_mode: LabelMode = Field(
        LabelMode.CENTRE,
        description="centre: a tile has the class of the area that holds its centre; majority: of "
        "the area that covers most of it; containment: tiles are laid in each area from its own "
        "corner and kept where they lie wholly inside it, as CLASS-M does.",
    )
    label_tiles: LabelTiles = Field(
        LabelTiles.LABELLED,
        description="Tiles kept: those with a class, those whose centre is outside every annotated "
        "area, or all.",
    )
    small_polygons: SmallPolygons = Field(
        SmallPolygons.ADAPTIVE,
        description="containment: lay tiles more closely in areas of a few tiles and let them "
        "protrude, as CLASS-M does, or treat every area alike.",
    )
    overlaps: Overlaps = Field(
        Overlaps.PRIORITY,
        description="containment: a tile whose centre also lies in an area of a class of higher "
        "priority is dropped, or kept with both classes, as CLASS-M does.",
    )
    min_label_share: float = Field(
        0.5, gt=0, le=1, description="majority: smallest share of a tile that its class covers."
    )
    min_tissue_labelled: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Smallest share of a tile with a class that must be tissue, such as 0.1 where "
        "fat is annotated, which looks like glass; --min-tissue if not given.",
    )
    unmapped: Unmapped = Field(
        Unmapped.ERROR,
        description="Annotated areas whose name is in no class: refuse the slide, or ignore them.",
    )
    group: str | None = Field(
        None,
        description="Regular expression that finds the patient in the slide id, such as "
        "'TCGA-..-....': its first group, or all it matches.",
    )
    classes: dict[str, tuple[str, ...]] = Field(
        {}, description="Names of annotated areas by class; the order of classes is their index."
    )
    ignored: tuple[str, ...] = Field(
        (), description="Names of annotated areas that have no class; they are not outside."
    )
    priority: tuple[str, ...] = Field(
        (),
        description="Classes, the one first that wins where areas overlap; the order of classes"
        " if empty.",
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = Counter(
            [*self.ignored, *(name for group in self.classes.values() for name in group)]
        )
        repeated = [name for name, count in names.items() if count > 1]
        if repeated:
            raise ValueError(f"name {repeated[0]!r} stands for more than one class")
        if self.priority and sorted(self.priority) != sorted(self.classes):
            raise ValueError(f"priority must list every class once, got {self.priority}")
        if self.label_mode is LabelMode.CONTAINMENT and self.label_tiles is LabelTiles.ALL:
            raise ValueError(
                "label_mode containment lays tiles in annotated areas only; set label_tiles to "
                "labelled, and make a second store with outside"
            )
        try:
            re.compile(self.group or "")
        except re.error as error:
            raise ValueError(f"group {self.group!r} is no regular expression: {error}") from error
        return self


class StainConfig(StageConfig):
    """How the stain matrix of a slide is estimated."""

    stains: StainPair = Field(
        StainPair.HE,
        description="Stains of the slides: he, or h-dab for brown immunohistochemistry. Patches of "
        "one are refused by models of the other.",
    )
    sample_tiles: int = Field(
        256, ge=1, description="Tissue tiles whose pixels the stain matrix rests on."
    )
    pixel_um: float = Field(
        2.0,
        gt=0,
        description="Side of the squares over which colours are averaged before the estimate, um; "
        "finer detail is chroma that JPEG has blurred.",
    )
    seed: int = Field(0, ge=0, description="Seed of the choice of tiles.")
    min_pixels: int = Field(
        2_000, ge=100, description="Fewest stained pixels an estimate may rest on."
    )
    adaptive: bool = Field(
        True,
        description="Estimate a stain matrix per slide; the published fixed one is used otherwise.",
    )
    allow_fallback: bool = Field(
        True,
        description="Use the published fixed matrix, marked as such, where too little tissue "
        "supports an estimate; such slides fail otherwise.",
    )
    strict_stain: bool = Field(
        False,
        description="Refuse slides whose stains are not H&E, brown IHC for instance; they are "
        "flagged otherwise.",
    )


class StoreConfig(StageConfig):
    """How patches are stored."""

    he_values: HeValues = Field(HeValues.UINT8, description="Type of the stored H/E values.")
    he_bits: int = Field(
        8,
        ge=3,
        le=8,
        description="Bits that 8-bit H/E values are rounded to; fewer take less disk and lose "
        "detail.",
    )
    keep_rgb: bool = Field(False, description="Keep the RGB patches too; training needs them.")
    chunk_patches: int = Field(4, ge=1, le=65536, description="Patches compressed together.")
    shard_patches: int = Field(256, ge=1, le=65536, description="Patches in one file.")

    @model_validator(mode="after")
    def _shards_hold_whole_chunks(self) -> Self:
        if self.shard_patches % self.chunk_patches:
            raise ValueError(
                f"shard_patches ({self.shard_patches}) must be a multiple of "
                f"chunk_patches ({self.chunk_patches})"
            )
        return self

    @model_validator(mode="after")
    def _only_bytes_are_rounded(self) -> Self:
        if self.he_bits < 8 and self.he_values is not HeValues.UINT8:
            raise ValueError(
                f"he_bits ({self.he_bits}) rounds values of 8 bits, but he_values is "
                f"{self.he_values.value}; choose one of the two"
            )
        return self


class PredictConfig(StageConfig):
    """How patches are sent through a model."""

    device: str = Field(
        "auto",
        description="Torch device: cpu, cuda (all GPUs), cuda:1 (that one); auto is all GPUs, or "
        "the processor where there is none.",
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Patches in one forward pass; auto is found by what fits the GPU's memory.",
    )
    precision: Precision = Field(
        Precision.AUTO,
        description="Arithmetic; auto is bfloat16 where the hardware gains by it, and convolutions "
        "with folded normalisation, but for published encoders what they were published with on a "
        "GPU and float32 on a processor; float32 is the network as it was trained.",
    )


class ResultsConfig(StageConfig):
    """How predictions are shown and exported; nothing is predicted anew for it."""

    export: tuple[str, ...] = Field(
        (),
        description="Files written for each slide beside the usual ones, such as regions or "
        "ome-tiff; 'wsi-pipeline export --help' lists them.",
    )
    classes: tuple[str, ...] = Field(
        (), description="Classes to choose from; all of the model if empty."
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="A place has the most probable of these classes if its probability is at "
        "least this; if not given, it must be the most probable of all.",
    )
    smooth_um: float = Field(
        0.0,
        ge=0,
        description="Average probabilities over neighbours, with a Gaussian of this standard "
        "deviation, um.",
    )


class PipelineConfig(StageConfig):
    """Everything a run depends on besides its slides and its model."""

    read: ReadConfig = ReadConfig()
    tissue: TissueConfig = TissueConfig()
    tile: TileConfig = TileConfig()
    label: LabelConfig = LabelConfig()
    stain: StainConfig = StainConfig()
    store: StoreConfig = StoreConfig()
    predict: PredictConfig = PredictConfig()
    results: ResultsConfig = ResultsConfig()

    def preprocessing(self) -> dict[str, Any]:
        """Return the part that decides the content of a patch store, as plain values."""
        return self.model_dump(mode="json", exclude={"predict", "results"})
