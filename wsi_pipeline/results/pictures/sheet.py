"""The sheet that every picture of a slide is drawn on: the slide, title, scale bar, a text column.

Knows what a slide is, not what is shown of it. Pixels are drawn straight onto the sheet, at the
resolution that it is written with.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from wsi_pipeline.files import replace_atomically

if TYPE_CHECKING:
    from wsi_pipeline.types import SlideInfo, SlideRecords

PANEL_PX = 1024
"""Longer side of the slide on the picture: that of the stored thumbnail, so that nothing is
blurred."""

COLUMN_PX = 465
SMALL_PX = 240
"""Longer side of the small picture."""

MARGIN_PX = 30
TITLE_PX = 82
SCALE_BAR_PX = 45
MIN_HEIGHT_PX = 840
DPI = 150

SMALL, TEXT, HEADING, TITLE = 16, 19, 23, 25
"""Sizes of text, px."""

BLACK, GREY, RED = "#000000", "#444444", "#b71c1c"
FRAME = "#666666"


class Sheet:
    """A picture of a slide under way.

    Parameters
    ----------
    records : SlideRecords
        What is known of the slide.
    subject : str
        What the picture shows.

    Attributes
    ----------
    panel : ndarray of shape (h, w, 3), uint8
        The slide, RGB, to be drawn on.
    words : list of str
        All that was written, in order; the picture carries it as its description.
    y : float
        Where the next line of the column begins, px from the top.
    """

    def __init__(self, records: SlideRecords, subject: str) -> None:
        self.slide: SlideInfo = records.slide
        width, height = self.slide.size_wh
        self.scale = PANEL_PX / max(width, height)
        size_wh = max(1, round(width * self.scale)), max(1, round(height * self.scale))
        smaller = size_wh[0] < records.thumbnail.shape[1]
        self.panel: NDArray[np.uint8] = np.asarray(
            cv2.resize(
                records.thumbnail,
                size_wh,
                interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR,
            ),
            dtype=np.uint8,
        )
        self.words: list[str] = []
        total_w = size_wh[0] + COLUMN_PX + 3 * MARGIN_PX
        total_h = max(size_wh[1] + SCALE_BAR_PX, MIN_HEIGHT_PX) + TITLE_PX + MARGIN_PX
        self._image = Image.new("RGB", (total_w, total_h), "white")
        self._draw = ImageDraw.Draw(self._image)
        self._left = size_wh[0] + 2 * MARGIN_PX
        self._write_title(records, subject)
        self._draw_scale_bar()
        self.y = float(TITLE_PX)

    @property
    def room(self) -> float:
        """Height that is left in the column, px."""
        return self._image.height - MARGIN_PX - self.y

    def places(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return x of the panel's columns and y of its rows, of their middles, level-0 px."""
        rows, cols = self.panel.shape[:2]
        return (np.arange(cols) + 0.5) / self.scale, (np.arange(rows) + 0.5) / self.scale

    def blend(self, colors: NDArray[np.uint8], opacity: NDArray[np.float32]) -> None:
        """Lay colours over the slide.

        Parameters
        ----------
        colors : ndarray of shape (h, w, 3), uint8
            RGB of each pixel of the panel.
        opacity : ndarray of shape (h, w), float32
            In [0, 1]; 0 where the slide is left as it is.
        """
        cv2.blendLinear(self.panel, colors, 1 - opacity, opacity, dst=self.panel)

    def write(
        self, x: float, text: str, size: int = TEXT, *, color: str = BLACK, bold: bool = False
    ) -> None:
        """Write a line into the column, ``x`` px from its left edge, at :attr:`y`."""
        self._write((self._left + x, self.y), text, size, color=color, bold=bold)

    def write_right(self, x: float, text: str, size: int = TEXT, *, color: str = BLACK) -> None:
        """Write a line that ends ``x`` px from the column's left edge."""
        width = _font(size, bold=False).getlength(text)
        self._write((self._left + x - width, self.y), text, size, color=color, bold=False)

    def heading(self, text: str) -> None:
        """Write a heading and go on below it."""
        self.write(0, text, HEADING, bold=True)
        self.y += 42

    def paragraph(self, lines: list[str], *, color: str = BLACK) -> None:
        """Write lines of small text and go on below them."""
        for line in lines:
            self.write(0, line, SMALL, color=color)
            self.y += 22

    def bar(self, x: float, width: float, height: float, color: str) -> None:
        """Fill a rectangle in the column."""
        if width >= 1:
            left, top = self._left + x, self.y
            self._draw.rectangle((left, top, left + width - 1, top + height - 1), fill=color)

    def swatch(self, x: float, width: int, height: int, tones: NDArray[Any]) -> None:
        """Show colours, RGB to 255 of shape (n, 3), from left to right in a frame."""
        strip = np.rint(tones[None]).astype(np.uint8)
        pixels = cv2.resize(strip, (width, height), interpolation=cv2.INTER_LINEAR)
        place = round(self._left + x), round(self.y)
        self._image.paste(Image.fromarray(pixels), place)
        box = (*place, place[0] + width - 1, place[1] + height - 1)
        self._draw.rectangle(box, outline=FRAME)

    def box(self, x: float, width: int, height: int, outline: str, *, thickness: int) -> None:
        """Draw an empty box in the column."""
        left, top = round(self._left + x), round(self.y)
        box = (left, top, left + width - 1, top + height - 1)
        self._draw.rectangle(box, outline=outline, width=thickness)

    def pixels(self) -> NDArray[np.uint8]:
        """Return the whole picture, shape (rows, cols, 3)."""
        left, top = MARGIN_PX, TITLE_PX
        self._image.paste(Image.fromarray(self.panel), (left, top))
        rows, cols = self.panel.shape[:2]
        self._draw.rectangle((left - 1, top - 1, left + cols, top + rows), outline=BLACK)
        return np.asarray(self._image)

    def save(self, path: Path) -> None:
        """Write the picture as PNG, in one step."""
        self.pixels()
        about = PngInfo()
        about.add_itxt("Description", "\n".join(self.words))
        with replace_atomically(path) as partial:
            # compressing as hard as is usual takes three times as long and saves little
            self._image.save(partial, compress_level=1, dpi=(DPI, DPI), pnginfo=about)

    def save_both(self, path: Path) -> dict[str, Path]:
        """Write the picture as PNG, and the slide on it as a small JPEG for lists of slides.

        Returns
        -------
        dict of str to Path
            Both, by kind: the name of the picture, and the same with ``_small``.
        """
        self.save(path)
        small = path.with_name(f"{path.stem}_small.jpg")
        shrunk = Image.fromarray(self.panel)
        shrunk.thumbnail((SMALL_PX, SMALL_PX), Image.Resampling.BOX)
        with replace_atomically(small) as partial:
            shrunk.save(partial, quality=80)
        return {path.stem: path, small.stem: small}

    def _write(
        self, place: tuple[float, float], text: str, size: int, *, color: str, bold: bool
    ) -> None:
        self.words.append(text)
        self._draw.text(place, text, fill=color, font=_font(size, bold=bold))

    def _write_title(self, records: SlideRecords, subject: str) -> None:
        slide = self.slide
        title = f"{slide.slide_id}: {subject}"
        self._write((MARGIN_PX, 12), title, TITLE, color=BLACK, bold=True)
        size_mm = " × ".join(f"{side * slide.mpp / 1000:.1f}" for side in slide.size_wh)
        count = len(records)
        facts = (
            f"{slide.size_wh[0]:,} × {slide.size_wh[1]:,} px, {size_mm} mm, {slide.mpp:.4g} µm/px "
            f"({slide.mpp_source}), {slide.vendor};  {count:,} tile{'' if count == 1 else 's'} of "
            f"{records.patch_px} px at {records.mpp:.4g} µm/px"
        )
        self._write((MARGIN_PX, 50), facts, SMALL, color=GREY, bold=False)

    def _draw_scale_bar(self) -> None:
        """Draw a bar of a round length below the slide, where it hides nothing."""
        length_um = nice_length_um(self.slide.size_wh[0] * self.slide.mpp)
        length = length_um / self.slide.mpp * self.scale
        top = TITLE_PX + self.panel.shape[0] + 15
        self._draw.rectangle((MARGIN_PX, top, MARGIN_PX + length, top + 8), fill=BLACK)
        text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
        middle = MARGIN_PX + length / 2 - _font(TEXT, bold=False).getlength(text) / 2
        self._write((max(MARGIN_PX, middle), top + 14), text, TEXT, color=BLACK, bold=False)


def nice_length_um(width_um: float) -> float:
    """Return the longest of 1, 2, 5, 10, ... um that is at most a quarter of a width."""
    limit = width_um / 4
    decade = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= limit))


def rgb(color: str) -> NDArray[np.uint8]:
    """Return a colour ``#rrggbb`` as three numbers."""
    return np.frombuffer(bytes.fromhex(color.removeprefix("#")), dtype=np.uint8)


@cache
def _font(size: int, *, bold: bool) -> ImageFont.FreeTypeFont:
    # Pillow has no bold font of its own
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
