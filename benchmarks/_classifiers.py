"""Classifiers of generated images: in which style are they, and of what?

Small convolutional networks that learn from real images alone. Must not know
the model that is measured.
"""

import dataclasses
import json
import pathlib

import numpy as np
from PIL import Image

SIDE = 64


@dataclasses.dataclass(frozen=True)
class Damage:
    """What the images of an epoch suffer, beside being moved and turned.

    Attributes:
        grey: Share in [0, 1] of those that lose their colours.
        soft: Share of those that are blurred.
        noise: Largest standard deviation, of 255.
    """

    grey: float = 0.5
    soft: float = 0.5
    noise: float = 24.0


class Classifier:
    """Names what an image shows, among names that it was taught.

    Args:
        names: Iterable of strings.
        seed: Integer >= 0.
    """

    def __init__(self, names, seed=0):
        import keras

        keras.utils.set_random_seed(seed)
        self.names = sorted(set(names))
        self.seed = seed
        self.network = _network(len(self.names))

    def fit(self, images, names, epochs, damage=Damage(), verbose=2):
        """Learns from images that are moved and blurred anew in each epoch.

        Args:
            images: uint8 array `(N, H, W, 3)`, real images.
            names: List of `N` strings.
            epochs: Integer.
            damage: `Damage`, what must be told without.
            verbose: As for `keras.Model.fit`.
        """
        import keras

        places = {name: place for place, name in enumerate(self.names)}
        answers = np.array([places[name] for name in names])
        steps = epochs * -(-len(images) // 64)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps, warmup_target=2e-3, warmup_steps=steps // 10
        )
        self.network.compile(
            keras.optimizers.AdamW(rate, weight_decay=1e-2),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        generator = np.random.default_rng(self.seed)
        for epoch in range(epochs):
            x = _scaled(_moved(images, generator, damage))
            order = generator.permutation(len(x))
            self.network.fit(
                x[order],
                answers[order],
                batch_size=64,
                initial_epoch=epoch,
                epochs=epoch + 1,
                verbose=verbose,
            )

    def rank(self, images, names):
        """The place of the right name among all, 0 for the first.

        Args:
            images: uint8 array `(N, H, W, 3)`.
            names: List of `N` strings.

        Returns:
            Int array `(N,)`.
        """
        logits = self._logits(images)
        right = [self.names.index(name) for name in names]
        return (logits > logits[np.arange(len(logits)), right][:, None]).sum(1)

    def __call__(self, images):
        """The name of each image, a list of strings."""
        return [self.names[place] for place in self._logits(images).argmax(1)]

    def _logits(self, images):
        small = np.stack([_resized(image) for image in images])
        return self.network.predict(_scaled(small), verbose=0)

    def save(self, directory, notes):
        """Writes the weights, the names and notes into a directory."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.network.save_weights(directory / "network.weights.h5")
        text = json.dumps({"names": self.names, "notes": notes}, indent=1)
        (directory / "names.json").write_text(text, encoding="utf-8")


def load(directory):
    """Reads what `Classifier.save` wrote.

    Returns:
        Tuple of the `Classifier` and its notes.
    """
    directory = pathlib.Path(directory)
    if not (directory / "names.json").is_file():
        raise FileNotFoundError(
            f"There is no classifier in {directory}. Run `python -m "
            "benchmarks.judges` first."
        )
    content = json.loads((directory / "names.json").read_text("utf-8"))
    classifier = Classifier(content["names"])
    classifier.network.load_weights(directory / "network.weights.h5")
    return classifier, content["notes"]


def _network(count):
    import keras

    layers = [keras.Input((SIDE, SIDE, 3))]
    for width in (32, 64, 128, 192):
        layers += [
            keras.layers.Conv2D(width, 3, 2, "same", use_bias=False),
            keras.layers.GroupNormalization(8),
            keras.layers.Activation("relu"),
        ]
    layers += [
        keras.layers.Flatten(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(count),
    ]
    return keras.Sequential(layers)


def _resized(image):
    image = Image.fromarray(image).resize((SIDE, SIDE), Image.BOX)
    return np.asarray(image)


def _scaled(images):
    return images.astype("float32") / 127.5 - 1.0


def _moved(images, generator, damage):
    """Each image shifted, sized, turned, blurred, greyed, roughened."""
    return np.stack([_moved_one(image, generator, damage) for image in images])


def _moved_one(pixels, generator, damage):
    image = Image.fromarray(pixels)
    side = image.width
    scale = side / SIDE * generator.uniform(0.85, 1.2)
    angle = generator.normal(0.0, 0.1)
    turned = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    shift = generator.uniform(-0.06, 0.06, 2) * side
    offset = np.full(2, side / 2) - turned @ np.full(2, SIDE / 2) + shift
    if generator.random() < damage.soft:
        # Generated images are softer than real ones.
        image = image.resize((side // 4,) * 2, Image.BOX)
        image = image.resize((side,) * 2, Image.BICUBIC)
    matrix = np.concatenate([turned, offset[:, None]], axis=1).ravel()
    image = image.transform(
        (SIDE, SIDE),
        Image.AFFINE,
        matrix.tolist(),
        Image.BILINEAR,
        # The background, whatever colour it has.
        fillcolor=tuple(int(value) for value in pixels[2, 2]),
    )
    if damage.grey and generator.random() < damage.grey:
        image = image.convert("L").convert("RGB")
    noise = generator.normal(
        0.0, generator.uniform(0, damage.noise), (SIDE, SIDE, 3)
    )
    return np.clip(np.asarray(image) + noise, 0, 255).astype("uint8")
