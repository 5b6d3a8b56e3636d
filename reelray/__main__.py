"""`python -m reelray` is the `reelray` command."""

import sys

from reelray.cluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
