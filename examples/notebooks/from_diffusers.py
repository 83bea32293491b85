# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From diffusers, and back
#
# Fine-tunes a diffusers folder and writes one again. Here the folder is made
# from `tiny`, so that all of this runs without a download; with
# `MODEL = "stable-diffusion-v1-5"`, a folder of yours, the rest is the same.

# %%
# !keras-sdft convert --model tiny --output runs/pipeline --format diffusers \
#     --overwrite
# !keras-sdft inspect runs/pipeline

# %%
from pathlib import Path

import keras_sdft

MODEL = "runs/pipeline"
DATA = Path("../data/ink/train")
RESOLUTION = 128

sd = keras_sdft.StableDiffusion.from_preset(MODEL, RESOLUTION, RESOLUTION)
dataset = keras_sdft.data.load(
    DATA, sd.tokenizer, resolution=RESOLUTION, batch_size=4
)
trainer = keras_sdft.Trainer(sd)
trainer.compile(keras_sdft.training.AdamW(1e-4))
history = trainer.fit(dataset, epochs=6)
path = trainer.export("runs/fine-tuned", overwrite=True)

# %% [markdown]
# ## Back
#
# `diffusers` is a folder for `StableDiffusionPipeline.from_pretrained`, `ldm` a
# single file for A1111 and ComfyUI. The scheduler's configuration of the source
# is kept.

# %%
# !keras-sdft convert --model runs/fine-tuned --output runs/tuned-pipeline \
#     --format diffusers --overwrite
# !keras-sdft convert --model runs/fine-tuned --output runs/tuned.safetensors \
#     --format ldm --overwrite
# !ls runs/tuned-pipeline

# %% [markdown]
# The same weights read from either are the same images:

# %%
images = []
for path in ("runs/fine-tuned", "runs/tuned-pipeline"):
    sd = keras_sdft.StableDiffusion.from_preset(path, RESOLUTION, RESOLUTION)
    images += list(sd.text_to_image("a cat in ink style", seed=0))
keras_sdft.callbacks.image_grid(
    images, columns=2, column_labels=["Keras", "diffusers"]
)
