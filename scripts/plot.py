"""See `python scripts/plot.py --help`."""

import sys

from prl.cli import plot_main

if __name__ == "__main__":
    sys.exit(plot_main())
