"""See `python scripts/play.py --help`."""

import sys

from prl.cli import play_main

if __name__ == "__main__":
    sys.exit(play_main())
