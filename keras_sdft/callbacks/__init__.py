"""What may happen while `Trainer.fit` runs, beyond `keras.callbacks`.

Only what Keras lacks is here: preview images, a bar over all steps, the
throughput, a stop at an exact step, weights written while training, and logs
that a resumed run continues. A callback uses public methods of the trainer;
it knows no file format of models.
"""

from keras_sdft.callbacks.checkpoint import Checkpoint
from keras_sdft.callbacks.export import Export
from keras_sdft.callbacks.finite import StopOnNaN
from keras_sdft.callbacks.grid import image_grid
from keras_sdft.callbacks.grid import save_png
from keras_sdft.callbacks.history_file import HistoryFile
from keras_sdft.callbacks.interruption import Interruption
from keras_sdft.callbacks.previews import Previews
from keras_sdft.callbacks.progress import Progress
from keras_sdft.callbacks.progress import Throughput
from keras_sdft.callbacks.steps import StopAtStep
from keras_sdft.callbacks.tensorboard import TensorBoard

__all__ = [
    "Checkpoint",
    "Export",
    "HistoryFile",
    "Interruption",
    "Previews",
    "Progress",
    "StopAtStep",
    "StopOnNaN",
    "TensorBoard",
    "Throughput",
    "image_grid",
    "save_png",
]
