"""Draw the table of ``results.csv``: mean and spread over seeds, one row per method.

Run ``python benchmarks/methods/table.py > benchmarks/methods/table.md`` after new rows.
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path

RESULTS = Path(__file__).with_name("results.csv")


def main() -> None:
    """Print one Markdown table per data set, budget and size."""
    with RESULTS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tables: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        tables[row["dataset"], row["labels_per_class"], row["size"], row["device"]].append(row)
    for (dataset, labels, size, device), found in sorted(tables.items()):
        budget = "all labels" if labels == "0" else f"{labels} labels per class"
        print(f"## {dataset}, {budget}, {size}, {device}\n")
        print("| method | seeds | balanced accuracy | macro-F1 | AUC | minutes |")
        print("|---|---|---|---|---|---|")
        for line in lines(found):
            print(line)
        print()


def lines(rows: list[dict[str, str]]) -> list[str]:
    """Give one line per method and variant, best first."""
    runs: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        variant = f", {row['variant']}" if row["variant"] else ""
        runs[row["method"] + variant].append(row)
    drawn = []
    for name, found in runs.items():
        columns = [
            [float(row[key]) for row in found]
            for key in ("balanced_accuracy", "macro_f1", "auc", "minutes")
        ]
        cells = " | ".join(spread(values) for values in columns)
        drawn.append((statistics.mean(columns[0]), f"| {name} | {len(found)} | {cells} |"))
    return [line for _, line in sorted(drawn, reverse=True)]


def spread(values: list[float]) -> str:
    """Write a mean and, of several values, the standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
