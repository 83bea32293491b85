# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # DreamBooth: a subject from a few photos
#
# Teaches the embedded model one cat, from six views of it, and keeps other
# cats as they were by images of the class that the model generates first.
# About six minutes on two CPU cores.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import keras_sdft

PHOTOS = Path("../data/sks_cat/instance")
INSTANCE_PROMPT = "a sks cat"
CLASS_PROMPT = "a cat"
CLASS_IMAGES = Path("runs/class_cat")

sd = keras_sdft.StableDiffusion.from_preset("tiny")
photos = [Image.open(path) for path in sorted(PHOTOS.glob("*.png"))]
keras_sdft.callbacks.image_grid(
    np.stack([photo.convert("RGB") for photo in photos]), columns=6
)

# %% [markdown]
# The token should mean nothing to the model yet:

# %%
print(keras_sdft.models.check_token("sks", sd.tokenizer))

# %% [markdown]
# ## Class images
#
# Those that are in the folder already count. 48 are enough here; 200 are
# usual for a model of full size.

# %%
options = keras_sdft.runs.ClassImageOptions(num_class_images=48)
paths = keras_sdft.runs.generate_class_images(
    sd, CLASS_PROMPT, CLASS_IMAGES, options
)

# %% [markdown]
# ## Train

# %%
PROMPTS = [INSTANCE_PROMPT, CLASS_PROMPT, "a dog"]


def generate():
    return sd.text_to_image(PROMPTS, seed=[0, 1, 2])


before = generate()
dataset = keras_sdft.data.load_dreambooth(
    PHOTOS,
    sd.tokenizer,
    instance_prompt=INSTANCE_PROMPT,
    class_data_dir=CLASS_IMAGES,
    class_prompt=CLASS_PROMPT,
    resolution=128,
    batch_size=2,
    repeat=True,
)
# The token is new to the text encoder of this model, so it learns too.
trainer = keras_sdft.Trainer(sd, train=["diffusion_model", "text_encoder"])
trainer.compile(keras_sdft.training.AdamW(1e-4))
history = trainer.fit(dataset, epochs=4, steps_per_epoch=100)

# %% [markdown]
# `instance_loss` falls as the subject is learned; `prior_loss` should stay
# where it was. With `prior_preservation="base"` no class images are needed.

# %%
keras_sdft.callbacks.image_grid(
    [*before, *generate()], labels=["before", "after"], column_labels=PROMPTS
)
