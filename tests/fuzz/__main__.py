"""`python -m tests.fuzz`: hostile peers and hostile films by the thousand. Exit status 1 where anything is wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.run import Result, run


def main() -> int:
    """Run as many cases as were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="where the node and its log are left")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cxrnode-fuzz-") as made:
        result = run(asked.cases, asked.seed, asked.keep or Path(made))
    tell(result)
    return 1 if result.wrong else 0


def tell(result: Result) -> None:
    """Print how the cases ended, and everything that is wrong."""
    first, last = result.rss
    print(f"{result.cases} cases in {result.seconds:.0f} s; resident memory {first:.1f} -> {last:.1f} MiB", end=" ")
    print(f"({100 * (last - first) / first:+.1f} %), {result.core_ms:.1f} core-ms a conversation" if first else "")
    for name, count in result.endings.most_common():
        print(f"  {count:6d}  {name}")
    for one in result.deaths[:20]:
        print(f"  a decode child died: {one}")
    for one in result.wrong[:40]:
        print(f"  WRONG: {one}")


if __name__ == "__main__":
    sys.exit(main())
