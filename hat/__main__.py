"""`python -m hat` is `hat`."""

import sys

from hat.cli import main

if __name__ == "__main__":
    sys.exit(main())
