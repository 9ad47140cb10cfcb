"""Slide files -> RGB pixels of pyramid levels: one module per library, one contract.

Chooses the reader; the libraries behind it are loaded when the first slide is opened.
"""

from __future__ import annotations

from pathlib import Path

from wsi_pipeline.config import READERS, ReaderName
from wsi_pipeline.errors import SlideReadError, UnsupportedSlideError
from wsi_pipeline.slide.readers.base import NotBrightfieldError, Reader, SlideHeader
from wsi_pipeline.slide.readers.registry import SlideFormat, find_format
from wsi_pipeline.slide.readers.resolution import MppCandidate

__all__ = ["MppCandidate", "Reader", "SlideFormat", "SlideHeader", "open_reader", "require_file"]


def open_reader(path: Path, choice: str = ReaderName.AUTO) -> Reader:
    """Open a slide with the best reader for it.

    Parameters
    ----------
    path : Path
        A slide file, or a folder holding one DICOM series.
    choice : str
        Name of the reader to use; ``auto`` decodes TIFF files directly, leaves the rest to
        OpenSlide, and what that does not open to the readers of installed packages.

    Returns
    -------
    Reader
        The open slide.

    Raises
    ------
    SlideReadError
        If there is no such file, or it cannot be read at all.
    UnsupportedSlideError
        If no reader opens it; says why, for each reader.
    ConfigError
        If there is no reader of that name.
    """
    require_file(path)
    refusals: list[str] = []
    for name in READERS.names if choice == ReaderName.AUTO else (choice,):
        try:
            return _open_with(name, path)
        except NotBrightfieldError:
            # another reader would show one channel of it as if it were the slide
            raise
        except SlideReadError:
            # damage that one reader sees, another would take for pixels, or die of
            raise
        except UnsupportedSlideError as error:
            refusals.append(f"{name}: {error}")
        except OSError as error:
            raise SlideReadError(f"{path} cannot be read: {error}", path=path) from error
    raise UnsupportedSlideError(
        f"{path} cannot be opened. {'; '.join(refusals)}. See the list of formats in the README, "
        f"or convert the slide to a tiled pyramidal TIFF",
        path=path,
    )


def require_file(path: Path) -> None:
    """Refuse what is no file or folder, before whoever opens it waits without end.

    Raises
    ------
    SlideReadError
        Saying what it is instead.
    """
    if path.is_file() or path.is_dir():
        return
    if path.exists():
        raise SlideReadError(f"{path} is a pipe or a device, not the file of a slide", path=path)
    if path.is_symlink():
        raise SlideReadError(
            f"{path} is a link to {path.readlink()}, which does not exist; mend the link, or mount "
            f"what it leads to",
            path=path,
        )
    raise SlideReadError(f"{path} does not exist; check the name", path=path)


def _open_with(name: str, path: Path) -> Reader:
    reader = find_format(name).open(path)
    if not isinstance(reader, Reader):
        raise TypeError(f"the reader {name!r} opened {path} as {type(reader).__name__}")
    return reader
