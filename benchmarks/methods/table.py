"""Draw the table of ``results.csv``: means over seeds, and differences of methods seed by seed.

    python benchmarks/methods/table.py > benchmarks/methods/table.md

Every method is compared with CLASS-M (or, where that is not there, with the best) on the seeds that
both have: mean difference of balanced accuracy with its 95 % interval by Student's t, and the
p-value that Holm's method leaves of it among the comparisons that answer the same question: other
methods, what the reference is without one of its parts, and other starts of the weights. Two seeds
say little, which the intervals show.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import NamedTuple

from rows import read
from scipy import stats

REFERENCE = "class-m"
WITHOUT_MIXUP = "class"
QUESTIONS = ("other method", "part left out", "other start")
FIGURE = "balanced_accuracy"
Rows = list[dict[str, str]]


class Difference(NamedTuple):
    """What a method has more than the reference, over the seeds of both."""

    seeds: int
    mean: float
    half_width: float
    p_value: float


def main() -> None:
    """Print one Markdown table for each data set, number of labels and set-up."""
    tables: dict[tuple[str, ...], Rows] = defaultdict(list)
    for row in read():
        key = (row["dataset"], row["plan"], row["labels_per_class"], row["labelled_slides"])
        tables[*key, row["setup"]].append(row)
    for (dataset, plan, labels, slides, setup), found in sorted(tables.items()):
        print(f"## {dataset}, {_labels(labels, slides)}, {setup}{plan and f', plan {plan}'}\n")
        for line in draw(found):
            print(line)
        print()


def draw(rows: Rows) -> list[str]:
    """Give the lines of a table, the best method first."""
    runs: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for row in rows:
        variant = f", {row['variant']}" if row["variant"] else ""
        runs[row["method"] + variant][row["seed"]] = row
    order = sorted(runs, key=lambda name: -statistics.mean(_values(runs[name])))
    reference = REFERENCE if REFERENCE in runs else order[0]
    apart = {n: compare(runs[n], runs[reference]) for n in order if n != reference}
    corrected: dict[str, float] = {}
    for question in QUESTIONS:
        asked = {
            n: d.p_value for n, d in apart.items() if d and question_of(n, reference) == question
        }
        corrected |= holm(asked)
    figures_of = "method | seeds | balanced accuracy | macro-F1 | AUC"
    lines = [f"| {figures_of} | less {reference}, paired | p (Holm) | CPU s |", "|---" * 8 + "|"]
    for name in order:
        figures = [_spread(_values(runs[name], key)) for key in (FIGURE, "macro_f1", "auc")]
        cost = statistics.mean(_values(runs[name], "cpu_seconds"))
        cells = [*figures, *_comparison(apart.get(name), corrected.get(name)), f"{cost:.0f}"]
        lines.append(f"| {name} | {len(runs[name])} | {' | '.join(cells)} |")
    return lines


def compare(
    method: dict[str, dict[str, str]], reference: dict[str, dict[str, str]]
) -> Difference | None:
    """Compare two methods on the seeds of both; None of fewer than two."""
    seeds = sorted(method.keys() & reference.keys())
    apart = [float(method[s][FIGURE]) - float(reference[s][FIGURE]) for s in seeds]
    if len(apart) < 2:
        return None
    error = statistics.stdev(apart) / len(apart) ** 0.5
    half = float(stats.t.ppf(0.975, len(apart) - 1)) * error
    mean = statistics.mean(apart)
    p = 2 * float(stats.t.sf(abs(mean) / max(error, 1e-12), len(apart) - 1))
    return Difference(len(apart), mean, half, p)


def question_of(name: str, reference: str) -> str:
    """Tell what a row is compared for, one of :data:`QUESTIONS`."""
    method, _, variant = name.partition(", ")
    if variant.startswith("from "):
        return "other start"
    ablated = reference == REFERENCE and (
        method == WITHOUT_MIXUP or (method == REFERENCE and variant)
    )
    return "part left out" if ablated else "other method"


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Correct p-values for their number, by Holm's step-down method."""
    corrected: dict[str, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda n: p_values[n])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = least
    return corrected


def _comparison(found: Difference | None, p_value: float | None) -> list[str]:
    if found is None or p_value is None:
        return ["", ""]
    low, high = found.mean - found.half_width, found.mean + found.half_width
    return [f"{found.mean:+.3f} [{low:+.3f}, {high:+.3f}] of {found.seeds}", f"{p_value:.3f}"]


def _values(runs: dict[str, dict[str, str]], key: str = FIGURE) -> list[float]:
    return [float(row[key]) for row in runs.values()]


def _spread(values: list[float]) -> str:
    """Write a mean and, of several values, the standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ± {statistics.stdev(values):.3f}"


def _labels(labels: str, slides: str) -> str:
    count = "all labels" if labels == "0" else f"{labels} labels per class"
    return count if slides == "0" else f"{count} from {slides} slides"


if __name__ == "__main__":
    main()
