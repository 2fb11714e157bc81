"""Trials that take too long for the tests: `python tests/trials/trials.py [NAME…]` runs all, or those that are named.

The last lines are a table for docs/guarantees.md. The exit code is 1 if a promise was not kept.
"""

import importlib
import sys
import time
from pathlib import Path

NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("common", "trials")))


# `length` measures as the benchmark of growth does.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


def main(names: tuple[str, ...]) -> int:
    """Run trials and print the table."""
    rows, kept = [], True
    for name in names:
        begun = time.perf_counter()
        for row in importlib.import_module(name).trial():
            kept = kept and row.kept == row.trials
            rows.append(f"| {row.promise} | `{name}` | {row.kept} of {row.trials} | {row.figure} |")
            print(rows[-1], flush=True)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    print("\n| promise | trial | kept | figure |\n|---|---|---|---|", *rows, sep="\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or NAMES))
