# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first fine-tune
#
# Fine-tunes the embedded model `tiny` on 64 drawings in ink and generates
# images of things that were not among them. On two CPU cores this takes about
# five minutes. Run it in `examples/notebooks` of a checkout in which
# `pip install .` was run.

# %%
import json
from pathlib import Path

import numpy as np
from PIL import Image

import keras_sdft

DATA = Path("../data/ink")

# %% [markdown]
# ## The data
#
# Drawings with captions, and the same things plain: they keep "a dog" as it
# was. The column `times` shows a drawing three times as often.

# %%
sd = keras_sdft.StableDiffusion.from_preset("tiny")
dataset = keras_sdft.data.load(
    DATA / "train_and_plain.jsonl",
    sd.tokenizer,
    resolution=128,
    batch_size=8,
    repeats="times",
    caption_dropout=0.1,
)
validation = keras_sdft.data.load(
    DATA / "validation",
    sd.tokenizer,
    resolution=128,
    batch_size=8,
    shuffle=False,
)

# %% [markdown]
# Some of the drawings, with their captions:

# %%
lines = (DATA / "train/metadata.jsonl").read_text().splitlines()
rows = [json.loads(line) for line in lines[:6]]
drawings = [Image.open(DATA / "train" / row["file_name"]) for row in rows]
keras_sdft.callbacks.image_grid(
    np.stack([drawing.convert("RGB") for drawing in drawings]),
    columns=6,
    column_labels=[row["text"] for row in rows],
)

# %% [markdown]
# ## Before
#
# The model has never seen the word "ink". The same seeds are used again after
# training.

# %%
PROMPTS = ["a cat in ink style", "a dog in ink style", "a dog"]


def generate():
    return sd.text_to_image(PROMPTS, seed=[0, 1, 2])


before = generate()
keras_sdft.callbacks.image_grid(before, columns=3, column_labels=PROMPTS)

# %% [markdown]
# ## Train
#
# `Trainer` is a `keras.Model`. The whole diffusion model learns, and the text
# encoder too, since a word is new.

# %%
text_encoder = keras_sdft.training.TextEncoder(learning_rate=1e-4)
trainer = keras_sdft.Trainer(
    sd,
    train=["diffusion_model", text_encoder],
    objective=keras_sdft.training.Objective(weighting="min_snr"),
    ema_decay=0.98,
)
trainer.compile(optimizer=keras_sdft.training.AdamW(learning_rate=1e-4))
history = trainer.fit(dataset, epochs=9, validation_data=validation)

# %% [markdown]
# ## After

# %%
trainer.export("runs/quickstart", overwrite=True)
sd = keras_sdft.StableDiffusion.from_preset("runs/quickstart", 128, 128)
keras_sdft.callbacks.image_grid(
    [*before, *generate()], labels=["before", "after"], column_labels=PROMPTS
)

# %% [markdown]
# The cat was among the drawings, the dog was not, and "a dog" alone should
# stay the dog that it was. `runs/quickstart` holds the weights:
# `keras-sdft generate --model runs/quickstart --prompt "a horse in ink style"
# --output horse.png` reads them.
