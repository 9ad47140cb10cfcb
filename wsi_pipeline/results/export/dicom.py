"""Result of a slide -> DICOM segmentation of probabilities, a segment per class.

Segmentations refer to the images they are of: of a DICOM slide, to the instance of its finest
level, in its study and in its coordinates. A slide of another format has no such instance: its
segmentation refers to identifiers that are made of the slide's fingerprint, so that every export of
it refers to the same, and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import numpy as np

from wsi_pipeline.files import replace_atomically
from wsi_pipeline.results.export.optional import import_optional
from wsi_pipeline.results.export.registry import Export
from wsi_pipeline.types import DicomImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.results.slide_result import SlideResult
    from wsi_pipeline.types import Heatmap

SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""Class of a whole-slide microscopy image."""

NAMESPACE = UUID("0b7c64a2-95a4-4c35-8a0c-6f5a61dd0a8e")
OF_DICOM = "Class probabilities of tiles"
OF_OTHER = "Class probabilities of tiles; refers to no DICOM image"
TILE_PX = 256
LARGEST = 255


def write_dicom(path: Path, result: SlideResult) -> None:
    """Write the probabilities of a slide as a fractional segmentation.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced in one step.
    result : SlideResult
        Of one slide.

    Notes
    -----
    One frame per class and tile of cells; 255 stands for probability 1, and 0 also for places
    without a tile. One pixel is one cell of the heatmap; the corner of the first pixel is that of
    the slide. A segmentation of a DICOM slide names no patient, whatever the slide does.

    Raises
    ------
    ExportError
        If highdicom is not installed.
    """
    highdicom = import_optional("highdicom", "dicom")
    heatmap = result.heatmap
    values = np.rint(np.nan_to_num(heatmap.values) * LARGEST) / LARGEST
    values = values if values.size else np.zeros((1, 1, values.shape[-1]))
    source = _slide_image(result, heatmap, values.shape[:2])
    of_dicom = result.records.slide.dicom is not None
    segmentation = highdicom.seg.Segmentation(
        source_images=[source],
        pixel_array=values[None].astype(np.float64),
        segmentation_type=highdicom.seg.SegmentationTypeValues.FRACTIONAL,
        fractional_type=highdicom.seg.SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=LARGEST,
        segment_descriptions=_segments(heatmap, result),
        series_instance_uid=_uid(result, f"segmentations by {_model_name(result)}"),
        series_number=2,
        sop_instance_uid=_uid(result, f"segmentation by {_model_name(result)}"),
        instance_number=1,
        manufacturer="wsi-pipeline",
        manufacturer_model_name=_model_name(result),
        software_versions="1",
        device_serial_number="1",
        content_label="CLASSES",
        content_description=OF_DICOM if of_dicom else OF_OTHER,
        tile_pixel_array=True,
        tile_size=(TILE_PX, TILE_PX),
        omit_empty_frames=False,
    )
    _refer_to_the_whole(segmentation)
    with replace_atomically(path) as partial:
        segmentation.save_as(partial)


def _segments(heatmap: Heatmap, result: SlideResult) -> list[Any]:
    """Describe each class: its name, as free text, and its colour."""
    highdicom = import_optional("highdicom", "dicom")
    from pydicom.sr.codedict import codes

    tissue = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_model_name(result), family=codes.DCM.ArtificialIntelligence, version="1"
    )
    segments = []
    for number, name in enumerate(heatmap.class_names, start=1):
        segment = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=tissue,
            segmented_property_type=highdicom.sr.CodedConcept(
                f"class-{number}", "99WSIP", name[:64]
            ),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        segment.RecommendedDisplayCIELabValue = _cielab(heatmap.class_colors[number - 1])
        segments.append(segment)
    return segments


def _refer_to_the_whole(segmentation: Any) -> None:  # noqa: ANN401 -- a data set
    """Leave out which frames of the slide each frame is of: cells are laid over other tiles."""
    for frame in segmentation.get("PerFrameFunctionalGroupsSequence", ()):
        for derivation in frame.get("DerivationImageSequence", ()):
            for image in derivation.SourceImageSequence:
                image.SpatialLocationsPreserved = "NO"
                if "ReferencedFrameNumber" in image:
                    del image.ReferencedFrameNumber


def _slide_image(result: SlideResult, heatmap: Heatmap, shape: tuple[int, int]) -> Any:  # noqa: ANN401 -- a data set
    """Describe the slide as a DICOM image with one pixel per cell; it holds no pixels."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    pixel_mm = heatmap.cell_px * result.mpp / 1000
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.Modality = SLIDE_IMAGE, "SM"
    image.PatientID = image.StudyID = image.AccessionNumber = ""
    image.PatientName = image.PatientBirthDate = image.PatientSex = ""
    image.StudyDate = image.StudyTime = image.ReferringPhysicianName = ""
    image.ContainerIdentifier = result.records.slide.slide_id[:64]
    image.PositionReferenceIndicator = "SLIDE_CORNER"
    image.Rows = image.Columns = TILE_PX
    image.TotalPixelMatrixRows, image.TotalPixelMatrixColumns = shape
    image.TotalPixelMatrixFocalPlanes = 1
    image.NumberOfFrames = int(np.prod([-(-side // TILE_PX) for side in shape]))
    image.ImagedVolumeWidth, image.ImagedVolumeHeight = shape[1] * pixel_mm, shape[0] * pixel_mm
    image.ImagedVolumeDepth = 0.001
    image.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    image.DimensionOrganizationType = "TILED_FULL"
    image.SamplesPerPixel, image.PhotometricInterpretation = 3, "RGB"
    image.BitsAllocated = image.BitsStored = 8
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [pixel_mm, pixel_mm], 0.001
    shared.PixelMeasuresSequence = [measures]
    image.SharedFunctionalGroupsSequence = [shared]
    _refer(image, result, heatmap.cell_px)
    return image


def _refer(image: Any, result: SlideResult, cell_px: float) -> None:  # noqa: ANN401 -- a data set
    """Give an image of cells the identifiers of the slide, and its place in the slide's frame."""
    from pydicom.dataset import Dataset

    known = result.records.slide.dicom or _made_up(result)
    image.StudyInstanceUID, image.SeriesInstanceUID = known.study, known.series
    image.SOPInstanceUID, image.FrameOfReferenceUID = known.instance, known.frame_of_reference
    image.ImageOrientationSlide = list(known.orientation)
    # the centre of the first cell, from that of the first pixel of the slide
    inwards = (cell_px - 1) / 2 * result.mpp / 1000
    origin, (along_row, along_column) = Dataset(), np.reshape(known.orientation, (2, 3))
    x, y = known.origin_mm + inwards * (along_row + along_column)[:2]
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = (
        float(x),
        float(y),
    )
    image.TotalPixelMatrixOriginSequence = [origin]


def _made_up(result: SlideResult) -> DicomImage:
    """Identify a slide that is not DICOM."""
    return DicomImage(
        study=_uid(result, "study"),
        series=_uid(result, "series"),
        instance=_uid(result, "image"),
        frame_of_reference=_uid(result, "frame of reference"),
        origin_mm=(0.0, 0.0),
        orientation=(0.0, 1.0, 0.0, 1.0, 0.0, 0.0),
    )


def _uid(result: SlideResult, what: str) -> str:
    """Make an identifier of the slide file and of what it is for."""
    return f"2.25.{uuid5(NAMESPACE, f'{result.records.fingerprint}/{what}').int}"


def _model_name(result: SlideResult) -> str:
    origin = result.predictions.origin
    return "model" if origin is None else origin.model


def _cielab(color: str) -> list[int]:
    """Return a colour in CIELab, scaled to 16 bits as DICOM has it."""
    import cv2

    rgb = np.frombuffer(bytes.fromhex(color.removeprefix("#")), dtype=np.uint8) / np.float32(255)
    lightness, a, b = cv2.cvtColor(rgb[None, None].astype(np.float32), cv2.COLOR_RGB2LAB)[0, 0]
    scaled: NDArray[np.float64] = np.array([lightness / 100, (a + 128) / 255, (b + 128) / 255])
    return [round(value * 65535) for value in scaled.tolist()]


DICOM = Export(file="probabilities.dcm", write=write_dicom)
