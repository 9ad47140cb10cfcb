"""Names people give -> slides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError, SlideReadError
from wsi_pipeline.slide.ids import slide_stem
from wsi_pipeline.slide.inputs import find_slides
from wsi_pipeline.slide.job import Share, SlideJob
from wsi_pipeline.slide.open import open_slide


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_folder_gives_its_slides_and_dicom_folders_and_no_pictures(tmp_path: Path) -> None:
    touch(
        tmp_path / "b.svs",
        tmp_path / "a.ome.tif",
        tmp_path / "label.png",
        tmp_path / "notes.txt",
        tmp_path / "series" / "1.dcm",
        tmp_path / "series" / "2.dcm",
        tmp_path / "mirax" / "Data0000.dat",
        tmp_path / "deeper" / "c.svs",
    )

    jobs = find_slides([str(tmp_path)])

    assert [job.slide_id for job in jobs] == ["a", "b", "c", "series"]


def test_a_folder_of_dicom_instances_is_one_slide(tmp_path: Path) -> None:
    touch(tmp_path / "scan" / "1.dcm", tmp_path / "scan" / "2.dcm")

    (job,) = find_slides([str(tmp_path / "scan")])

    assert job.path == tmp_path / "scan"


def test_globs_files_and_repetitions(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "x" / "b.svs", tmp_path / "picture.png")

    jobs = find_slides(
        [str(tmp_path / "**" / "*.svs"), str(tmp_path / "a.svs"), str(tmp_path / "picture.png")]
    )

    assert [job.slide_id for job in jobs] == ["a", "b", "picture"]


def test_slides_of_one_stem_keep_apart(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "a.ome.tif", tmp_path / "b.svs")

    assert [job.slide_id for job in find_slides([str(tmp_path)])] == ["a.ome.tif", "a.svs", "b"]


def test_a_table_gives_mpp_ids_and_regions(tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text("path,mpp,slide_id,roi\nx/a.svs,0.25,first,a.geojson\nx/b.svs,,,\n")

    first, second = find_slides([str(table)])

    assert (first.path, first.mpp, first.slide_id) == (tmp_path / "x/a.svs", 0.25, "first")
    assert first.roi == tmp_path / "a.geojson"
    assert (second.mpp, second.slide_id, second.roi) == (None, "b", None)


def test_tables_of_other_programs_and_machines_are_read(tmp_path: Path) -> None:
    touch(tmp_path / "sub" / "a.svs", tmp_path / "b.svs")
    (tmp_path / "t.csv").write_text("wsi,mpp\nsub\\a.svs,0.25\n.\\b.svs,0.5\n")
    jobs = find_slides([str(tmp_path / "t.csv")])
    assert [(job.path, job.slide_id) for job in jobs] == [
        (tmp_path / "sub" / "a.svs", "a"),
        (tmp_path / "b.svs", "b"),
    ]
    (tmp_path / "t.csv").write_text("path\nC:\\slides\\a.svs\n")
    with pytest.raises(ConfigError, match=r"line 2, column path: .* on a Windows machine"):
        find_slides([str(tmp_path / "t.csv")])


def test_each_row_of_a_table_is_a_slide_of_its_own(tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    touch(tmp_path / "a.svs")
    table.write_text("path,slide_id,roi\na.svs,left,l.geojson\na.svs,right,r.geojson\n")

    left, right = find_slides([str(table)])
    again = find_slides([str(tmp_path / "*.svs"), str(table), str(tmp_path)])

    assert left.path == right.path == tmp_path / "a.svs"
    assert left.roi == tmp_path / "l.geojson"
    assert right.roi == tmp_path / "r.geojson"
    assert again == [left, right]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("path,mpp_um\na.svs,1\n", "line 1: the column 'mpp_um' is not known"),
        ("path,mpp\n\na.svs,1\n,2\n", "line 4, column path: has no value"),
        ("path,mpp\na.svs,1e-300\n", "line 2, column mpp: 1e-300 um/px"),
        ("path,mpp\na.svs,inf\n", "line 2, column mpp: 'inf' is not a finite number"),
        ("path\na.svs\na.svs\n", "line 3, column path: .* line 2 occur twice"),
        ("path,mpp\n", "names no slide"),
        ("file,mpp\na.svs,1\n", "has no column path"),
        ("path,mpp\na.svs,fast\n", "'fast' is not a number"),
        ("path,mpp\na.svs,-1\n", "must be above 0"),
        ("path,slide_id\na.svs,x\nb.svs,x\n", "occur twice"),
    ],
)
def test_a_malformed_table_is_explained(tmp_path: Path, text: str, named: str) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(text)

    with pytest.raises(ConfigError, match=named):
        find_slides([str(table)])


def test_what_programs_leave_beside_slides_is_no_slide(tmp_path: Path) -> None:
    touch(
        tmp_path / "a.svs",
        tmp_path / "._a.svs",
        tmp_path / ".trash" / "b.svs",
        tmp_path / "__MACOSX" / "c.svs",
        tmp_path / "results" / "run.json",
        tmp_path / "results" / "a" / "heatmap.ome.tif",
        tmp_path / "x.zarr" / "d.tif",
    )

    assert [job.slide_id for job in find_slides([str(tmp_path)])] == ["a"]


def test_downloads_of_one_folder_per_slide_are_told_apart_by_it(tmp_path: Path) -> None:
    touch(tmp_path / "0c2c" / "slide.svs", tmp_path / "1f4a" / "slide.svs", tmp_path / "b.svs")

    jobs = find_slides([str(tmp_path)])

    assert [job.slide_id for job in jobs] == ["0c2c_slide", "1f4a_slide", "b"]


def test_links_to_nothing_are_slides_and_circles_end(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs")
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nowhere.svs")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "back").symlink_to(tmp_path)

    jobs = find_slides([str(tmp_path)])

    assert [job.slide_id for job in jobs] == ["a", "gone"]
    assert find_slides([str(tmp_path / "gone.svs")])[0].slide_id == "gone"
    with pytest.raises(SlideReadError, match=r"is a link to .*nowhere\.svs, which does not exist"):
        open_slide(jobs[1].path)


def test_a_name_that_is_no_text_makes_an_id_that_is(tmp_path: Path) -> None:
    for name in (b"a\xff.svs", b"b\nc.svs"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()

    assert [job.slide_id for job in find_slides([str(tmp_path)])] == ["a%ff", "b%0ac"]


def test_a_name_without_slides_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no slide"):
        find_slides([str(tmp_path / "*.svs")])


def test_a_folder_of_regions_gives_each_slide_its_own(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "b.svs", tmp_path / "roi" / "a.geojson")

    first, second = find_slides([str(tmp_path / "*.svs")], roi=tmp_path / "roi")

    assert first.roi == tmp_path / "roi" / "a.geojson"
    assert second.roi is None


@pytest.mark.parametrize(
    ("name", "stem"), [("a.svs", "a"), ("a.b.ome.tiff", "a.b"), ("A.OME.TIF", "A")]
)
def test_the_stem_leaves_out_both_suffixes_of_ome_files(name: str, stem: str) -> None:
    assert slide_stem(Path(name)) == stem


@given(st.integers(0, 40), st.integers(1, 12))
def test_the_shares_of_a_list_hold_every_slide_once_and_are_even(slides: int, count: int) -> None:
    jobs = [SlideJob(path=Path(f"{n}.svs"), slide_id=str(n)) for n in range(slides)]

    shares = [Share(index=index, count=count).of(jobs) for index in range(count)]

    assert sorted(job.path for share in shares for job in share) == sorted(j.path for j in jobs)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 3), (0, 0)])
def test_a_share_that_does_not_exist_is_refused(index: int, count: int) -> None:
    with pytest.raises(ConfigError, match="they count from 0"):
        Share(index=index, count=count)
