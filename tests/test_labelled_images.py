"""Lists of labelled images from folders, tables and zips; what is wrong is named."""

from __future__ import annotations

import shutil
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
    ],
)
def test_a_bad_table_is_refused(folder: Path, old: str, new: str, match: str) -> None:
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(IngestError, match=match):
        find_images(folder, SLIDE)


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
