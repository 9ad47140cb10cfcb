"""Small sound slides in the formats of scanners that OpenSlide reads."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.contracts.slide_files import picture

TILE_PX = 64
SLIDE_CLASS = UID("1.2.840.10008.5.1.4.1.1.77.1.6")
LENS_TAG, FORMAT_TAG = 65421, 65420


def write_ndpi(path: Path) -> None:
    """Write two levels as NDPI has them: a JPEG each, and offsets of 8 bytes in a classic TIFF."""
    pixels = picture(256, 192)
    content = bytearray(b"II*\0" + bytes(8))
    link = 4  # where the place of the next directory stands
    for step, lens in ((1, 20.0), (2, 10.0)):
        level = np.ascontiguousarray(pixels[::step, ::step, ::-1])
        jpeg = cv2.imencode(".jpg", level)[1].tobytes()
        bits, where = len(content), len(content) + 6
        content += struct.pack("<3H", 8, 8, 8) + struct.pack("<2I", 20_000 // step, 1)
        maker = len(content)
        content += b"Hamamatsu\0"
        image = len(content)
        content += jpeg
        height, width = level.shape[:2]
        entries = (
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, 7),
            (262, 3, 1, 6), (271, 2, 10, maker), (273, 4, 1, image), (277, 3, 1, 3),
            (278, 4, 1, height),
            (279, 4, 1, len(jpeg)), (282, 5, 1, where), (283, 5, 1, where), (296, 3, 1, 3),
            (FORMAT_TAG, 4, 1, 1), (LENS_TAG, 11, 1, int(np.float32(lens).view(np.uint32))),
            (65422, 9, 1, 0), (65423, 9, 1, 0), (65424, 9, 1, 0),
        )  # fmt: skip
        content[link : link + 8] = struct.pack("<Q", len(content))
        content += struct.pack("<H", len(entries))
        content += b"".join(struct.pack("<2H2I", *entry) for entry in entries)
        link = len(content)
        content += bytes(8 + 4 * len(entries))  # no next directory yet, and no high halves
    path.write_bytes(content)


def write_dicom(path: Path) -> None:
    """Write a slide of one level, uncompressed tiles in full rows."""
    pixels = picture(4 * TILE_PX, 3 * TILE_PX)
    rows, cols = (side // TILE_PX for side in pixels.shape[:2])
    tiles = pixels.reshape(rows, TILE_PX, cols, TILE_PX, 3).swapaxes(1, 2)
    slide = Dataset()
    slide.file_meta = FileMetaDataset()
    slide.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slide.file_meta.MediaStorageSOPClassUID = SLIDE_CLASS
    slide.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    slide.SOPClassUID, slide.SOPInstanceUID = SLIDE_CLASS, "1.2.3.4"
    slide.StudyInstanceUID, slide.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    slide.FrameOfReferenceUID = "1.2.3.3"
    slide.Modality = "SM"
    slide.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    slide.InstanceNumber = slide.SeriesNumber = 1
    slide.Rows = slide.Columns = TILE_PX
    slide.NumberOfFrames = rows * cols
    slide.TotalPixelMatrixRows, slide.TotalPixelMatrixColumns = pixels.shape[:2]
    slide.DimensionOrganizationType = "TILED_FULL"
    slide.SamplesPerPixel, slide.PlanarConfiguration = 3, 0
    slide.PhotometricInterpretation = "RGB"
    slide.BitsAllocated = slide.BitsStored = 8
    slide.HighBit, slide.PixelRepresentation = 7, 0
    measures, shared, optical = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [0.0005, 0.0005]
    shared.PixelMeasuresSequence = [measures]
    slide.SharedFunctionalGroupsSequence = [shared]
    optical.ObjectiveLensPower = 20.0
    optical.OpticalPathIdentifier = "1"
    slide.OpticalPathSequence = [optical]
    slide.PixelData = tiles.tobytes()
    pydicom.dcmwrite(path, slide, enforce_file_format=True)
