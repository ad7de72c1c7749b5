"""See `python scripts/benchmark.py --help`."""

import sys

from prl.cli import benchmark_main

if __name__ == "__main__":
    sys.exit(benchmark_main())
