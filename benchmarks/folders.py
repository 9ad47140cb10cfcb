"""How long a folder takes that remembers: views of many records, and a command given again.

    python benchmarks/folders.py records 5000
    python benchmarks/folders.py slides 1000

``records`` times ``wsi-pipeline report`` on a folder with so many records. ``slides`` makes so many
small slides, one in twenty of them cut off, runs ``preprocess`` on them twice, and watches memory,
open files and threads of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from wsi_pipeline.run.records import Records
from wsi_pipeline.run.slides import RunOptions, run_slides
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.synthetic import write_synthetic_slide

SIDE_PX = 1024
COMMAND = (sys.executable, "-c", "from wsi_pipeline.cli import main; main()")


def main() -> None:
    """Run what is asked for and print what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["records", "slides"])
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="folders-") as folder:
        (time_records if arguments.what == "records" else time_slides)(
            Path(folder), arguments.count
        )


def time_records(work: Path, count: int) -> None:
    """Copy the record of a real slide and time the views of all."""
    slide = work / "slide.tif"
    write_synthetic_slide(slide, (SIDE_PX, SIDE_PX), mpp=0.5, seed=1)
    run_slides([SlideJob(path=slide, slide_id="s0")], RunOptions(out=work / "out"))
    records = Records(work / "out")
    (record,) = records.all()
    for number in range(1, count):
        records.write(replace(record, slide_id=f"s{number}"))
    for _ in range(3):
        began, used = time.monotonic(), os.times()
        subprocess.run(
            [*COMMAND, "report", "out", "--json"], cwd=work, stdout=subprocess.DEVNULL, check=True
        )
        now = os.times()
        cpu = now.children_user + now.children_system - used.children_user - used.children_system
        print(
            f"report of {count} records: {time.monotonic() - began:.2f} s, {cpu:.2f} s of CPU",
            flush=True,
        )


def time_slides(work: Path, count: int) -> None:
    """Preprocess a folder of small slides twice."""
    base = work / "base.tif"
    write_synthetic_slide(base, (SIDE_PX, SIDE_PX), mpp=0.5, seed=1)
    (work / "slides").mkdir()
    bad = set(random.Random(1).sample(range(count), count // 20))
    for number in range(count):
        path = work / "slides" / f"s{number:04d}.tif"
        if number in bad:
            path.write_bytes(base.read_bytes()[: 2000 + number])
        else:
            os.link(base, path)
    for turn in ("first", "second"):
        began, used = time.monotonic(), os.times()
        watched = watch([*COMMAND, "preprocess", "slides", "--out", "out", "--quiet"], work)
        now = os.times()
        cpu = now.children_user + now.children_system - used.children_user - used.children_system
        found = json.loads((work / "out" / "run.json").read_text())["outcomes"]
        statuses = [outcome["status"] for outcome in found]
        print(
            f"{turn} run: {time.monotonic() - began:.1f} s, {cpu:.1f} s of CPU; "
            f"{statuses.count('done')} done, {statuses.count('failed')} failed; {watched}",
            flush=True,
        )


def watch(command: list[str], work: Path) -> str:
    """Run a command; returns its exit code and how memory, files and threads went."""
    seen: list[tuple[int, int, int]] = []
    with subprocess.Popen(
        command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            seen += look(process.pid)
            time.sleep(0.5)
    middle, last = seen[len(seen) // 2], seen[-2] if len(seen) > 1 else seen[-1]
    words = ("MiB", "files", "threads")
    told = ", ".join(f"{a} then {b} {w}" for a, b, w in zip(middle, last, words, strict=True))
    return f"exit {process.returncode}; half way and at the end {told}"


def look(pid: int) -> list[tuple[int, int, int]]:
    """Look at the memory (MiB), open files and threads of a process."""
    try:
        status = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":" in line
        )
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return [(int(status["VmRSS"].split()[0]) // 1024, files, int(status["Threads"]))]
    except (OSError, KeyError):
        return []


if __name__ == "__main__":
    main()
