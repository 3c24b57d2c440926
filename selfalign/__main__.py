"""`python -m selfalign` is `selfalign`."""

import sys

from selfalign.cli import main

if __name__ == "__main__":
    sys.exit(main())
