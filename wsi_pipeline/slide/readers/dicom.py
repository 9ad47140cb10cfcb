"""A folder of DICOM files -> the files of the one slide in it.

Looks only for the identifier of the series near the head of each file; OpenSlide reads the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsi_pipeline.errors import UnsupportedSlideError
from wsi_pipeline.types import DicomImage

_HEAD_BYTES = 1 << 16
_PREAMBLE = 128
_INDEX = "DICOMDIR"
# tag (0020,000E) with explicit (UI + 2 bytes of length) or implicit (4 bytes) representation
_SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI..|..\x00\x00)(?P<uid>[0-9.]{1,64})", re.DOTALL)
_CLASS = re.compile(rb"\x02\x00\x02\x00UI..(?P<uid>[0-9.]{1,64})", re.DOTALL)
_ORIGIN = "TotalPixelMatrixOriginSequence[0].{}OffsetInSlideCoordinateSystem"
_WHOLE_SLIDE = b"1.2.840.10008.5.1.4.1.1.77.1.6"


def series_member(folder: Path) -> Path:
    """Find a file of the only series in a folder.

    Parameters
    ----------
    folder : Path
        Holds the ``.dcm`` files of one slide.

    Returns
    -------
    Path
        One of them; OpenSlide finds the others.

    Raises
    ------
    UnsupportedSlideError
        If the folder holds no DICOM file, or several series.
    """
    series = {uid: file for file in dicom_files(folder) if (uid := series_uid(file))}
    if not series:
        raise UnsupportedSlideError(
            "the folder holds no DICOM slide (.dcm); name a slide file", path=folder
        )
    if len(series) > 1:
        names = ", ".join(sorted(file.name for file in series.values()))
        raise UnsupportedSlideError(
            f"the folder holds {len(series)} DICOM series; name one file of the slide meant, such "
            f"as one of {names}",
            path=folder,
        )
    return next(iter(series.values()))


def dicom_files(folder: Path) -> list[Path]:
    """List the DICOM instances in a folder.

    Parameters
    ----------
    folder : Path
        May hold other files too: a ``DICOMDIR``, a licence, what a file manager left, annotations
        and reports in DICOM.

    Returns
    -------
    list of Path
        Files ending in ``.dcm``, and those without ending that begin as DICOM does; sorted by name.
    """
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
        and entry.name != _INDEX
        and entry.is_file()
        and (entry.suffix.lower() == ".dcm" or (not entry.suffix and _begins_as_dicom(entry)))
        and not _is_other_object(entry)
    )


def one_per_series(files: Sequence[Path]) -> list[Path]:
    """Keep the first file of every series among the DICOM files of one folder."""
    first: dict[str, Path] = {}
    for file in files:
        first.setdefault(series_uid(file), file)
    return list(first.values())


def series_files(path: Path) -> tuple[Path, ...]:
    """List the DICOM files that form a slide.

    Parameters
    ----------
    path : Path
        One of them, or their folder.

    Returns
    -------
    tuple of Path
        Sorted by name.
    """
    member = series_member(path) if path.is_dir() else path
    uid = series_uid(member)
    files = [file for file in dicom_files(member.parent) if series_uid(file) == uid]
    return tuple(files) or (member,)


def image_of(properties: Mapping[str, str]) -> DicomImage | None:
    """Find what other DICOM objects refer to a slide by.

    Parameters
    ----------
    properties : mapping of str to str
        Of OpenSlide, which has the header of the finest level.

    Returns
    -------
    DicomImage or None
        None if the slide is not DICOM, or its header lacks a part of it.
    """
    said = {key.removeprefix("dicom."): properties[key] for key in properties}
    try:
        x, y = (float(said[_ORIGIN.format(axis)]) for axis in "XY")
        a, b, c, d, e, f = (float(said[f"ImageOrientationSlide[{i}]"]) for i in range(6))
        return DicomImage(
            study=said["StudyInstanceUID"],
            series=said["SeriesInstanceUID"],
            instance=said["SOPInstanceUID"],
            frame_of_reference=said["FrameOfReferenceUID"],
            origin_mm=(x, y),
            orientation=(a, b, c, d, e, f),
        )
    except (KeyError, ValueError):
        return None  # what refers to nothing is better than what refers to something else


def _begins_as_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(_PREAMBLE + 4).endswith(b"DICM")
    except OSError:
        # not ours to judge: it does not even say that it is DICOM
        return False


def _is_other_object(file: Path) -> bool:
    """Whether a file says that it is DICOM, but no image of a slide."""
    found = _CLASS.search(_head(file))
    return found is not None and found["uid"] != _WHOLE_SLIDE


def _head(file: Path) -> bytes:
    """Read the begin of a DICOM file; nothing of what is none."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError:
        # what is wrong with it is said by the reader that opens it
        return b""
    return head if head[_PREAMBLE : _PREAMBLE + 4] == b"DICM" else b""


def series_uid(file: Path) -> str:
    """Read the identifier of a DICOM file's series; empty where there is none."""
    found = _SERIES.search(_head(file))
    return found["uid"].decode("ascii") if found else ""
