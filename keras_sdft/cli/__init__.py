"""The command `keras-sdft`: train, dreambooth, generate and more.

Turns flags into calls of the package's public names, and errors into one
line. Imports TensorFlow only inside a command, so that `--help` is quick.
"""

from keras_sdft.cli.command_line import main

__all__ = ["main"]
