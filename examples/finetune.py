"""Fine-tunes on a folder of captioned images; shows before and after.

python examples/finetune.py photos --output_dir fine-tuned --prompt "a dog"
"""

import argparse
import os

import numpy as np
from PIL import Image

import keras_sdft

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data", help="folder with metadata.jsonl or .txt files")
parser.add_argument("--model", default="tiny")
parser.add_argument("--output_dir", default="fine-tuned")
parser.add_argument("--prompt", default="a red heart")
parser.add_argument("--resolution", type=int, default=128)
parser.add_argument("--batch_size", type=int, default=4)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--learning_rate", type=float, default=1e-4)
parser.add_argument("--num_steps", type=int, help="of sampling")
parser.add_argument("--seed", type=int, default=0)


def main(arguments=None):
    args = parser.parse_args(arguments)
    size = args.resolution
    sd = keras_sdft.StableDiffusion.from_preset(args.model, size, size)
    dataset = keras_sdft.data.load(
        args.data,
        sd.tokenizer,
        resolution=size,
        batch_size=args.batch_size,
        seed=args.seed,
    )

    def generate():
        return sd.text_to_image(
            args.prompt, num_steps=args.num_steps, seed=args.seed
        )

    before = generate()
    trainer = keras_sdft.Trainer(sd, seed=args.seed)
    trainer.compile(optimizer=keras_sdft.training.AdamW(args.learning_rate))
    trainer.fit(dataset, epochs=args.epochs)
    trainer.export(args.output_dir, overwrite=True)
    # The trainer changed the weights of `sd` itself.
    both = np.concatenate([before[0], generate()[0]], axis=1)
    path = os.path.join(args.output_dir, "before_and_after.png")
    Image.fromarray(both).save(path)
    print(path)


if __name__ == "__main__":
    main()
