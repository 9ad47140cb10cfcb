"""Lists of labelled images from folders, tables and zips; what is wrong is named."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.labelled import write_image, write_images
from wsi_pipeline.errors import IngestError
from wsi_pipeline.preprocess.labelled_images import (
    LabelledImage,
    TableColumns,
    decode_image,
    find_images,
    read_image,
)

SLIDE = TableColumns(group="slide")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "tiles", per_group=2, px=16)
    return tmp_path / "tiles"


def test_folder_table_and_zip_give_the_same(folder: Path) -> None:
    from_folder = find_images(folder, SLIDE)
    from_table = find_images(folder / "labels.csv", SLIDE)
    archive = Path(shutil.make_archive(str(folder), "zip", folder))
    from_zip = find_images(archive, SLIDE)
    assert len(from_folder) == 4
    for images in (from_table, from_zip):
        for one, other in zip(from_folder, images, strict=True):
            assert (one.name, one.label, one.group) == (other.name, other.label, other.group)
            assert one.file.read_bytes() == other.file.read_bytes()
    assert from_folder[0].label == "gland"
    assert from_folder[0].group == "slide-a"


def test_subfolders_are_classes_and_images_groups_of_their_own(folder: Path) -> None:
    (folder / "labels.csv").unlink()
    (folder / "gland" / "notes.txt").write_text("no image")
    (folder / ".cache").mkdir()
    (folder / "stroma" / "deep").mkdir()
    shutil.move(folder / "stroma" / "slide-a_1.png", folder / "stroma" / "deep" / "x.PNG")
    images = find_images(folder)
    assert [(image.name, image.label) for image in images] == [
        ("gland/slide-a_0.png", "gland"),
        ("gland/slide-b_0.png", "gland"),
        ("stroma/deep/x.PNG", "stroma"),
        ("stroma/slide-b_1.png", "stroma"),
    ]
    assert [image.group for image in images] == [image.name for image in images]


def test_a_pattern_finds_the_groups(folder: Path) -> None:
    whole = find_images(folder, group_pattern="slide-.")
    assert [image.group for image in whole] == ["slide-a", "slide-a", "slide-b", "slide-b"]
    capture = find_images(folder, group_pattern="slide-(.)_")
    assert [image.group for image in capture] == ["a", "a", "b", "b"]


def test_an_empty_label_is_unknown(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace(",gland,slide-a", ",,slide-a"))
    assert [image.label for image in find_images(folder)] == [None, "stroma", "gland", "stroma"]


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("path,label", "file,label", "no column path; it has: file, label, slide"),
        ("stroma/slide-b_1.png", "stroma/gone.png", "line 5 names stroma/gone.png"),
        (",stroma,slide-a", ",stroma,", "line 3 has no slide"),
        ("gland/slide-a_0.png,", ",", "line 2 names no image"),
        ("gland/slide-b_0.png", "gland/slide-a_0.png", "line 4 names gland/slide-a_0.png, as .*2"),
    ],
)
def test_a_bad_table_is_refused(folder: Path, old: str, new: str, match: str) -> None:
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(IngestError, match=match):
        find_images(folder, SLIDE)


@pytest.mark.parametrize("word", ["NA", "n/a", "NaN", " ", "null"])
def test_a_label_that_says_missing_is_unknown(folder: Path, word: str) -> None:
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace(",gland,slide-a", f",{word},slide-a"))
    assert [image.label for image in find_images(folder)] == [None, "stroma", "gland", "stroma"]


def test_a_folder_that_says_missing_is_no_class(folder: Path) -> None:
    (folder / "labels.csv").unlink()
    shutil.move(folder / "gland", folder / "NA")
    labels = {image.name: image.label for image in find_images(folder)}
    assert labels["NA/slide-a_0.png"] is None
    assert labels["stroma/slide-b_1.png"] == "stroma"


def test_what_holds_no_images_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(IngestError, match="has no images"):
        find_images(tmp_path / "empty")
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(IngestError, match="no folder, CSV table or zip"):
        find_images(tmp_path / "text.zip")
    with pytest.raises(IngestError, match=r"finds no group in gland/slide-a_0\.png"):
        find_images(folder, group_pattern="patient")
    with pytest.raises(IngestError, match="no regular expression"):
        find_images(folder, group_pattern="(")


def test_decoding(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_image(tmp_path / "a.png", rgb)
    image = LabelledImage("a.png", tmp_path / "a.png", None, "a")
    assert np.array_equal(decode_image(image, image.file.read_bytes()), rgb)
    alpha = np.full((5, 7, 1), 255, dtype=np.uint8)
    alpha[0] = 0
    content = cv2.imencode(".png", np.concatenate([rgb[..., ::-1], alpha], axis=-1))[1].tobytes()
    on_white = decode_image(image, content)
    assert (on_white[0] == 255).all()
    assert np.array_equal(on_white[1:], rgb[1:])
    with pytest.raises(IngestError, match=r"a\.png cannot be decoded"):
        decode_image(image, content[:50])
    grey = cv2.imencode(".png", rgb[..., 0])[1].tobytes()
    with pytest.raises(IngestError, match="must be 8-bit RGB"):
        decode_image(image, grey)


def png(width: int, height: int) -> bytes:
    """A PNG that states a size and has next to no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"0")), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be decoded"),
        (png(60_000, 60_000), "has more than 67108864 pixels"),
        (png(10_000, 10_000), "has more than 67108864 pixels"),
        (png(16, 0), "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "cannot be decoded"),
    ],
    ids=["empty", "60000 px", "10000 px", "no height", "no chunks"],
)
def test_an_image_that_is_none_or_a_bomb_is_refused(content: bytes, said: str) -> None:
    image = LabelledImage("a.png", Path("a.png"), None, "a")
    with pytest.raises(IngestError, match=said):
        decode_image(image, content)


def test_a_damaged_archive_names_its_member(folder: Path) -> None:
    archive = Path(shutil.make_archive(str(folder), "zip", folder))
    content = bytearray(archive.read_bytes())
    at = content.index(b"\x89PNG") + 40
    content[at] ^= 255
    archive.write_bytes(content)
    damaged, *whole = find_images(archive)
    with pytest.raises(IngestError, match=r"png cannot be read: .*repair or remove it"):
        read_image(damaged)
    assert all(read_image(image) for image in whole)
