"""What may happen while `Trainer.fit` runs, beyond `keras.callbacks`.

Only what Keras lacks is here: preview images, a bar over all steps, the
throughput, a stop at an exact step, weights written while training. A
callback sees the trainer's public face; it knows no file dialect.
"""

from keras_sdft.callbacks.export import Export
from keras_sdft.callbacks.grid import image_grid
from keras_sdft.callbacks.grid import save_png
from keras_sdft.callbacks.history_file import HistoryFile
from keras_sdft.callbacks.previews import Previews
from keras_sdft.callbacks.progress import Progress
from keras_sdft.callbacks.progress import Throughput
from keras_sdft.callbacks.steps import StopAtStep

__all__ = [
    "Export",
    "HistoryFile",
    "Previews",
    "Progress",
    "StopAtStep",
    "Throughput",
    "image_grid",
    "save_png",
]
