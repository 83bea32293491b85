# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A style, from your own pictures
#
# Trains with the command on a folder of captioned pictures: what is checked
# first, what to look at meanwhile, and how to use the result. `DATA` is a
# folder of drawings from the checkout; put your own folder in its place, and
# for photos a model of full size (`MODEL = "sd1.4"`, `RESOLUTION = 512`,
# `LEARNING_RATE = 1e-5`).

# %%
from IPython.display import Image

MODEL = "tiny"
RESOLUTION = 128
LEARNING_RATE = 1e-4
DATA = "../data/ink"
STEPS = 240

# %% [markdown]
# ## Train
#
# The opening lines say how many images were found, used and left out, and what
# memory and disk the run takes.

# %%
# !keras-sdft train --model {MODEL} --data {DATA}/train \
#     --validation_data {DATA}/validation \
#     --resolution {RESOLUTION} --batch_size 4 --max_train_steps {STEPS} \
#     --learning_rate {LEARNING_RATE} --weighting min_snr --ema_decay 0.98 \
#     --preview_prompts "a castle in ink style" "a dog in ink style" "a dog" \
#     --preview_every_steps 80 --checkpoint_every_steps 80 \
#     --output_dir runs/style --overwrite

# %% [markdown]
# ## Look
#
# `runs/style/index.html` is the report: curves, previews, data and settings.
# Before and after:

# %%
Image("runs/style/previews/before_and_after.png")

# %% [markdown]
# `val_loss` is measured on other pictures, with the same noise each time.
# Where it rises again, the pictures are being memorized.

# %%
# !cut -d, -f1-3,6 runs/style/history.csv

# %% [markdown]
# ## Train longer
#
# A run goes on from where it ended, at the very next batch.

# %%
# !keras-sdft train --resume runs/style --max_train_steps {STEPS + 80}

# %% [markdown]
# ## Generate

# %%
# !keras-sdft generate --model runs/style --prompt "a guitar in ink style" \
#     --num_images 4 --seed 0 --output runs/guitar.png --overwrite

# %%
Image("runs/guitar.png")
