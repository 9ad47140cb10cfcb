"""Names of slides and patients in a table of their own, and nowhere among the results."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tests.stores import make_header, make_store
from wsi_pipeline.cli import main
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.slide.pseudonyms import pseudonymise
from wsi_pipeline.store import PatchStore
from wsi_pipeline.synthetic import write_synthetic_slide

if TYPE_CHECKING:
    from tests.known import KnownSlide


def test_names_are_nowhere_among_the_results(known_slide: KnownSlide, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "Smith-John.tif").symlink_to(known_slide.path)
    (slides / "Doe-Jane.tif").write_bytes(b"no slide")
    table = tmp_path / "slides.csv"
    table.write_text(
        "path,group\nslides/Smith-John.tif,Patient-Smith\nslides/Doe-Jane.tif,Patient-Doe\n"
    )
    out, names = tmp_path / "out", tmp_path / "apart" / "names.csv"
    arguments = ["preprocess", str(table), "--out", str(out), "--pseudonymise", str(names)]

    first = CliRunner().invoke(main, [*arguments, "--quiet"])
    again = CliRunner().invoke(main, [*arguments, "--quiet"])

    assert (first.exit_code, again.exit_code) == (1, 1), first.output
    rows = {row["name"]: row for row in csv.DictReader(names.read_text().splitlines())}
    assert set(rows) == {"Smith-John", "Doe-Jane", "Patient-Smith", "Patient-Doe"}
    assert names.stat().st_mode & 0o77 == 0
    store = PatchStore.open(out / rows["Smith-John"]["pseudonym"] / "patches.zarr")
    assert set(store.group) == {rows["Patient-Smith"]["pseudonym"]}
    for file in out.rglob("*"):
        assert "Smith" not in file.name
        content = file.read_bytes() if file.is_file() else b""
        assert not [name for name in (b"Smith", b"Doe-Jane", b"slides.csv") if name in content], (
            file
        )
    assert len(list(out.glob("slide-*/patches.zarr"))) == 1, "the second run finds the first"


def test_features_of_slides_tell_no_name_and_those_of_stores_are_refused(tmp_path: Path) -> None:
    slides, out, names = tmp_path / "slides", tmp_path / "out", tmp_path / "apart" / "names.csv"
    slides.mkdir()
    write_synthetic_slide(slides / "Smith-John.tif", (768, 768), mpp=0.5, seed=1)
    (slides / "Doe-Jane.tif").write_bytes(b"no slide")
    rest = ["--model", "demo", "--out", str(out), "--pseudonymise", str(names), "--quiet"]

    done = CliRunner().invoke(main, ["features", str(slides), *rest])

    assert done.exit_code == 1, done.output
    (file,) = out.glob("slide-*.h5")
    rows = {row["name"]: row for row in csv.DictReader(names.read_text().splitlines())}
    assert file.stem == rows["Smith-John"]["pseudonym"]
    for path in out.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert b"Smith" not in content, path
        assert b"Doe-Jane" not in content, path
    make_store(tmp_path / "known" / "patches.zarr", make_header(4))
    refused = CliRunner().invoke(main, ["features", str(tmp_path / "known"), *rest])
    assert refused.exit_code == 1
    assert "carries the name of its slide" in refused.output


def test_the_table_is_kept_apart_and_short_names_leave_words_whole(tmp_path: Path) -> None:
    job = SlideJob(path=tmp_path / "a.tif", slide_id="a")
    with pytest.raises(ConfigError, match="kept apart from results"):
        pseudonymise([job], tmp_path / "out" / "names.csv", tmp_path / "out")

    (hidden,) = pseudonymise([job], tmp_path / "names.csv", tmp_path / "out")

    assert hidden.redaction is not None
    said = hidden.redaction(f"{tmp_path}/a.tif cannot be read; a was a scan")
    assert said == f"{hidden.slide_id} cannot be read; {hidden.slide_id} was {hidden.slide_id} scan"
    assert hidden.shown == hidden.slide_id


def test_names_that_look_like_formulas_come_back_from_the_table(tmp_path: Path) -> None:
    jobs = [SlideJob(path=tmp_path / f"{name}.tif", slide_id=name) for name in ("=a", "'=a", "@b")]
    table = tmp_path / "names.csv"

    first = pseudonymise(jobs, table, tmp_path / "out")

    assert ",=" not in table.read_text()
    assert ",@" not in table.read_text()
    again = pseudonymise(jobs, table, tmp_path / "out")
    assert [job.slide_id for job in again] == [job.slide_id for job in first]
