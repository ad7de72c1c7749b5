"""See `python scripts/plot.py --help`."""

import sys

from prl.plot import plot_main

if __name__ == "__main__":
    sys.exit(plot_main())
