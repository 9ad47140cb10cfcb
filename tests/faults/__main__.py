"""Read many damaged and malicious inputs, and say what came of them.

    python -m tests.faults --count 2400
    python -m tests.faults --only slide.tif --count 500 --keep found

Each input is a sound file changed as its seed says, so that a finding can be made again. It is read
in a process of its own kind, with 30 s to end. Bad are: a traceback (an error that the command line
does not turn into a message), a process that died, one that did not end, and, of files that carry
checksums, content other than was written. The exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.faults.running import run
from tests.faults.targets import TARGETS
from tests.faults.trial import Result, Verdict

MAX_MIB = 2048


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2400, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--only", action="append", choices=sorted(TARGETS), help="targets")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that went wrong")
    options = parser.parse_args()
    names = options.only or list(TARGETS)
    each = -(-options.count // len(names))
    found: dict[str, list[Result]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        seeds = range(options.seed, options.seed + each)
        for name, seed, result in run(names, seeds, Path(folder), options.keep):
            found[name].append(result)
            if result.verdict not in (Verdict.READ, Verdict.REFUSED):
                said = (result.said.strip().splitlines() or [""])[-1]
                print(f"{result.verdict}: {name} seed {seed}: {said[:160]}", file=sys.stderr)
    return report(found)


def report(found: dict[str, list[Result]]) -> int:
    """Print a line per target; return 1 if anything went wrong."""
    header = ("input", "inputs", *Verdict, "longest s", "most MiB")
    print(("{:20}" + "{:>10}" * (len(header) - 1)).format(*header))
    everything = [result for results in found.values() for result in results]
    for name, results in [*found.items(), ("all", everything)]:
        counts = [sum(result.verdict is verdict for result in results) for verdict in Verdict]
        longest = max(result.seconds for result in results)
        most = max(result.mib for result in results)
        row = (name, len(results), *counts, f"{longest:.1f}", f"{most:.0f}")
        print(("{:20}" + "{:>10}" * (len(row) - 1)).format(*row))
    bad = sum(result.verdict not in (Verdict.READ, Verdict.REFUSED) for result in everything)
    return int(bad > 0 or any(result.mib > MAX_MIB for result in everything))


if __name__ == "__main__":
    sys.exit(main())
