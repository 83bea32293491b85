"""The ink pictures as a TensorFlow Datasets (TFDS) dataset of our own.

Reads the folder `ink/` beside this file; knows nothing of this library.
Importing it tells TFDS the name "ink":

```python
import sys

import tensorflow_datasets as tfds

sys.path.insert(0, "examples/data")
import ink_tfds

pictures = tfds.load("ink", split="train", data_dir="build/tfds")
```

Once prepared, `tfds.load("ink", data_dir="build/tfds")` needs no import, and
`keras_sdft.data.load` takes the builder:

```python
builder = tfds.builder("ink", data_dir="build/tfds")
dataset = keras_sdft.data.load(builder, stable_diffusion.tokenizer, ...)
```
"""

import json
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

FOLDER = pathlib.Path(__file__).parent / "ink"
SIZE = 128


class Ink(tfds.core.GeneratorBasedBuilder):
    """80 things in black ink, 128x128, each with one caption.

    Splits are `"train"` (64) and `"validation"` (16 other things). Features
    are `image`, uint8 `(128, 128, 3)`, and `text`, a string.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Things in black ink, with captions.",
            homepage="https://github.com/microsoft/fluentui-emoji",
            license="MIT",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 3)),
                    "text": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "text"),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded: the pictures are here.
        return {
            split: self._generate_examples(FOLDER / split)
            for split in ("train", "validation")
        }

    def _generate_examples(self, folder):
        for line in (folder / "metadata.jsonl").read_text().splitlines():
            row = json.loads(line)
            with Image.open(folder / row["file_name"]) as image:
                pixels = np.asarray(image.convert("RGB"))
            yield row["file_name"], {"image": pixels, "text": row["text"]}
