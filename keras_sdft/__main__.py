"""`python -m keras_sdft` is the command `keras-sdft`."""

import sys

from keras_sdft.cli import main

if __name__ == "__main__":
    sys.exit(main())
