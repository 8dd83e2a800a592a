"""``python -m timeexpert`` is ``timeexpert``."""

import sys

from timeexpert.cli import main

if __name__ == "__main__":
    sys.exit(main())
