# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A LoRA
#
# Learns the drawings in ink as a file of three megabytes, which diffusers,
# A1111 and ComfyUI read for models of a published size, and shows it at several
# strengths. About four minutes on two CPU cores.

# %%
from pathlib import Path

import keras_sdft

DATA = Path("../data/ink")

sd = keras_sdft.StableDiffusion.from_preset("tiny")
dataset = keras_sdft.data.load(
    DATA / "train_and_plain.jsonl",
    sd.tokenizer,
    resolution=128,
    batch_size=8,
    repeats="times",
    caption_dropout=0.1,
)

# %% [markdown]
# ## Train
#
# Only the LoRA learns. A small model has few layers, so all dense layers are
# adapted, of the text encoder too; `targets="attention"` and a rate of 1e-4
# suit a model of full size.

# %%
lora = keras_sdft.adapters.LoRA(16, targets="linear", text_encoder=True)
trainer = keras_sdft.Trainer(
    sd,
    train=lora,
    objective=keras_sdft.training.Objective(weighting="min_snr"),
    ema_decay=0.98,
)
trainer.compile(keras_sdft.training.AdamW(1e-3))
history = trainer.fit(dataset, epochs=9)
lora.save("runs/ink.safetensors", dialect="kohya")

# %% [markdown]
# What the file says:

# %%
# !keras-sdft inspect runs/ink.safetensors

# %% [markdown]
# ## Use it in a model that was not trained

# %%
PROMPTS = ["a cat in ink style", "a dog in ink style", "a dog"]
STRENGTHS = (0.0, 0.5, 1.0)

sd = keras_sdft.StableDiffusion.from_preset("tiny")
sd.load_adapter("runs/ink.safetensors", name="ink")
images = []
for strength in STRENGTHS:
    sd.set_adapters({"ink": strength})
    images += list(sd.text_to_image(PROMPTS, seed=[0, 1, 2]))
keras_sdft.callbacks.image_grid(
    images,
    labels=[f"scale {strength}" for strength in STRENGTHS],
    column_labels=PROMPTS,
)
