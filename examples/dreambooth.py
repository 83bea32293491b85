"""DreamBooth: teaches a model a subject from a few photos of it.

python examples/dreambooth.py photos class "a photo of sks dog" "a photo of dog"
"""

import argparse

from PIL import Image

import keras_sdft

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("photos", help="folder with 3 to 30 photos of the subject")
parser.add_argument("class_images", help="folder for images of its class")
parser.add_argument("instance_prompt", help="names the subject by a rare token")
parser.add_argument("class_prompt", help="the same without the token")
parser.add_argument("--model", default="tiny")
parser.add_argument("--output_dir", default="subject")
parser.add_argument("--num_class_images", type=int, default=200)
parser.add_argument("--steps", type=int, default=2400)
parser.add_argument("--learning_rate", type=float, default=1e-6)
parser.add_argument("--num_steps", type=int, help="of sampling")


def main(arguments=None):
    args = parser.parse_args(arguments)
    prompts = args.instance_prompt, args.class_prompt
    token = keras_sdft.data.check_dreambooth_prompts(*prompts)
    sd = keras_sdft.StableDiffusion.from_preset(args.model)
    print(keras_sdft.models.check_token(token, sd.tokenizer))

    # Generated before training: what the model should still generate after.
    options = keras_sdft.runs.ClassImageOptions(
        num_class_images=args.num_class_images, class_num_steps=args.num_steps
    )
    keras_sdft.runs.generate_class_images(
        sd, args.class_prompt, args.class_images, options
    )
    dataset = keras_sdft.data.load_dreambooth(
        args.photos,
        sd.tokenizer,
        instance_prompt=args.instance_prompt,
        class_data_dir=args.class_images,
        class_prompt=args.class_prompt,
        resolution=(sd.img_height, sd.img_width),
        repeat=True,
    )
    trainer = keras_sdft.Trainer(sd)
    trainer.compile(keras_sdft.training.AdamW(args.learning_rate))
    trainer.fit(dataset, steps_per_epoch=args.steps)
    trainer.export(args.output_dir, overwrite=True)
    image = sd.text_to_image(
        args.instance_prompt, num_steps=args.num_steps, seed=0
    )[0]
    Image.fromarray(image).save(f"{args.output_dir}/subject.png")


if __name__ == "__main__":
    main()
