"""`python -m prl NAME ...`: see `prl.cli`."""

import sys

from prl.cli import main

if __name__ == "__main__":
    sys.exit(main())
