"""Trains a LoRA on captioned images; shows it at several strengths.

python examples/lora.py photos --prompt "a dog in ink style"
"""

import argparse

import numpy as np
from PIL import Image

import keras_sdft

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data", help="folder with metadata.jsonl or .txt files")
parser.add_argument("--model", default="tiny")
parser.add_argument("--output", default="lora.safetensors")
parser.add_argument("--prompt", default="a red heart")
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--resolution", type=int, default=128)
parser.add_argument("--batch_size", type=int, default=4)
parser.add_argument("--epochs", type=int, default=10)
# That of the embedded model; for one of full size 1e-4.
parser.add_argument("--learning_rate", type=float, default=1e-3)


def main(arguments=None):
    args = parser.parse_args(arguments)
    size = args.resolution
    sd = keras_sdft.StableDiffusion.from_preset(args.model, size, size)
    dataset = keras_sdft.data.load(
        args.data, sd.tokenizer, resolution=size, batch_size=args.batch_size
    )
    lora = keras_sdft.adapters.LoRA(
        args.rank, targets="linear", text_encoder=True
    )
    trainer = keras_sdft.Trainer(sd, train=lora)
    trainer.compile(keras_sdft.training.AdamW(args.learning_rate))
    trainer.fit(dataset, epochs=args.epochs)
    lora.save(args.output, dialect="kohya")

    # As anyone would use the file: in a model that was not trained.
    sd = keras_sdft.StableDiffusion.from_preset(args.model, size, size)
    sd.load_adapter(args.output, name="style")
    images = []
    for strength in (0.0, 0.5, 1.0):
        sd.set_adapters({"style": strength})
        images += list(sd.text_to_image(args.prompt, seed=0))
    Image.fromarray(np.concatenate(images, axis=1)).save(f"{args.output}.png")
    print(f"{args.output}.png")


if __name__ == "__main__":
    main()
