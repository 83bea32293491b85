"""What the workers of a test do of which one is lost, with either backend."""

import os
import signal
import sys
import time

from keras_sdft import callbacks
from keras_sdft.cli import command
from keras_sdft.cli import command_line
from tests import workers

# A file that the second worker writes in its last moment.
DIED = "died"


class Dies(callbacks.StopAtStep):
    """Kills the second worker after a step, as a machine that is lost.

    Once there is a checkpoint to go on from.

    Args:
        index: Integer, the number of this worker.
        step: Integer.
        checkpoints: Path of the directory that the first one writes.
    """

    def __init__(self, index, step, checkpoints):
        super().__init__(1000)
        self.index, self.at, self.checkpoints = index, step, checkpoints

    def on_step_end(self, before, logs):
        if (self.index, self.step) != (1, self.at):
            return
        while not any(self.checkpoints.glob("step_*")):
            time.sleep(0.01)
        (self.checkpoints.parent / DIED).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def seconds_to_the_end(folder):
    """Returns how long after the second worker the first wrote its last."""
    last = folder / workers.OUTPUT.format(0)
    return last.stat().st_mtime - (folder / DIED).stat().st_mtime


def as_command(function):
    """Runs a function as a command, with its messages and exit codes."""

    def training(options):
        """Trains."""
        function()

    made = command.Command(
        run=training, groups=(), example="", needs_tensorflow=False
    )
    command_line.COMMANDS[made.name] = made
    sys.exit(command_line.main([made.name]))
