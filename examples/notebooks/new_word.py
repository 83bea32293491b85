# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A new word
#
# Textual inversion: the embedding of a new word is what learns, and no weight
# of the model changes. The result is the smallest file there is, and the
# weakest: a word can only ask for what the model is able to generate. About
# three minutes on two CPU cores.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import keras_sdft

PHOTOS = Path("../data/sks_cat")
TOKEN = "<sks-cat>"

sd = keras_sdft.StableDiffusion.from_preset("tiny")
photos = [
    Image.open(path) for path in sorted((PHOTOS / "instance").glob("*.png"))
]
keras_sdft.callbacks.image_grid(
    np.stack([photo.convert("RGB") for photo in photos]), columns=6
)

# %% [markdown]
# ## The word
#
# It must be none that the tokenizer knows, which is why it stands in angle
# brackets. Two embeddings stand for it in a prompt, and both begin as that of
# "cat": before training the word means just that.

# %%
word = keras_sdft.adapters.TextualInversion(TOKEN, init="cat", vectors=2)
trainer = keras_sdft.Trainer(sd, train=word)
trainer.compile(keras_sdft.training.AdamW(1e-2))

PROMPTS = [f"a photo of a {TOKEN}", "a photo of a cat"]


def generate():
    return sd.text_to_image(PROMPTS, seed=0)


before = generate()

# %% [markdown]
# ## The captions
#
# The photos need none: each is shown with one of a dozen sentences that hold
# the word, so that it is the word that takes on what the photos have in
# common. The dataset is made after the trainer, which added the word to the
# tokenizer.

# %%
captions = keras_sdft.adapters.CAPTION_TEMPLATES["object"]
print(*captions[:4], "...", sep="\n")


def load(folder, **options):
    return keras_sdft.data.load(
        folder,
        sd.tokenizer,
        caption=TOKEN,
        caption_template=list(captions),
        resolution=128,
        **options,
    )


dataset = load(PHOTOS / "instance", repeats=50, batch_size=4)
validation = load(PHOTOS / "validation", batch_size=3, shuffle=False)

# %% [markdown]
# ## Train
#
# `loss` hardly falls, since the networks stay as they are. `val_loss` is
# measured on three other views of the cat. With a model of full size a rate of
# 1e-3 and 3,000 steps are usual.

# %%
history = trainer.fit(dataset, epochs=4, validation_data=validation)

# %%
keras_sdft.callbacks.image_grid(
    [*before, *generate()], labels=["before", "after"], column_labels=PROMPTS
)

# %% [markdown]
# "A photo of a cat" is the same image before and after, to the pixel. The word
# now asks for something else: the error on other views of the cat fell, and the
# image takes on its colours, if little of its shape, since the text encoder of
# this small model never saw words that would describe such a cat.
# [DreamBooth](dreambooth.ipynb), which trains the weights, generates it.
#
# ## Use it in a model that was not trained
#
# diffusers' `load_textual_inversion` reads the file, too, and so do A1111 and
# ComfyUI from their folders of embeddings.

# %%
word.save("runs/sks-cat.safetensors")

# %%
# !keras-sdft inspect runs/sks-cat.safetensors

# %%
sd = keras_sdft.StableDiffusion.from_preset("tiny")
sd.load_embedding("runs/sks-cat.safetensors")
keras_sdft.callbacks.image_grid(generate(), columns=2, column_labels=PROMPTS)
