"""Tables as people and spreadsheets save them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_files import UnreadableError
from wsi_files.tables import parse_table, read_table

ROWS = "path,mpp,slide_id\na b.svs,0.25,x\nc.svs,,y\n"


def cells(content: bytes) -> list[tuple[str | None, float | None, str | None]]:
    table = parse_table(content, "t.csv")
    return [(row.text("path"), row.number("mpp"), row.text("slide_id")) for row in table.rows]


@pytest.mark.parametrize(
    "content",
    [
        ROWS.encode(),
        ROWS.encode("utf-8-sig"),
        ROWS.encode("utf-16"),
        ROWS.encode("utf-16-le").join([b"\xff\xfe", b""]),
        ROWS.replace("\n", "\r\n").encode(),
        ROWS.replace(",", ";").replace("0.25", "0,25").encode(),
        ROWS.replace(",", "\t").encode(),
        ROWS.replace("path,mpp,slide_id", "Path, MPP ,Slide ID").encode(),
        ROWS.replace("0.25", '"0,25"').encode(),
        ("sep=;\n" + ROWS.replace(",", ";")).encode(),
        (ROWS + ",,\n\n ,\t, \n").encode(),
        ROWS.replace("\n", ",,\n").encode(),
        ROWS.replace(",,y", ",N/A,y").encode(),
    ],
    ids=[
        "plain", "mark", "utf-16", "utf-16-le", "crlf", "semicolon", "tab", "capitals",
        "quoted comma", "stated separator", "empty rows", "empty columns", "missing",
    ],
)  # fmt: skip
def test_a_table_reads_the_same_however_it_was_saved(content: bytes) -> None:
    assert cells(content) == [("a b.svs", 0.25, "x"), ("c.svs", None, "y")]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "t.csv is empty"),
        (b"path,mpp\na,inf\n", "t.csv line 2, column mpp: 'inf' is not a finite number"),
        (b"path,mpp\na,1\nb,1_0\n", "t.csv line 3, column mpp: '1_0' is not a number"),
        (b"path,mpp\na,1,2\n", "t.csv line 2 has 3 cells where the first line has 2"),
        (b"path,mpp\na\n", "t.csv line 2 has 1 cells"),
        (b"path,Path\na,b\n", "the column path occurs twice"),
        (b"path,\na,b\n", "line 2: 'b' stands in a column without a name"),
        (b'path,mpp\n"a,1\n', "line 2: unexpected end of data"),
        (b"path,mpp\na\0b,1\n", "line 2, column path: .* holds characters that are not text"),
        (b"path,mpp\n\xe4.svs,1\n", "cannot be read as utf-8"),
        (b"sep=ab\npath\n", "states the separator 'ab'"),
    ],
)
def test_what_is_wrong_is_named_by_line_and_column(content: bytes, named: str) -> None:
    with pytest.raises(UnreadableError, match=named):
        cells(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_explained(content: bytes) -> None:
    with suppress(UnreadableError):
        table = parse_table(content, "t.csv")
        assert table.headers or not table.rows


def test_a_column_may_go_by_other_names() -> None:
    table = parse_table(b"path,Slide MPP\na,1\n", "t.csv", {"slide_mpp": "mpp"})
    assert table.rows[0].number("mpp") == 1
    with pytest.raises(UnreadableError, match="the column mpp occurs twice"):
        parse_table(b"mpp,slide_mpp\n1,1\n", "t.csv", {"slide_mpp": "mpp"})


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_files.tables.MAX_BYTES", 100)
    (tmp_path / "t.csv").write_text("path\n" + "a.svs\n" * 20)

    with pytest.raises(UnreadableError, match="has more than 100 bytes"):
        read_table(tmp_path / "t.csv")
