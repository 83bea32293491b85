"""Classifiers of generated images: are they in ink, and what do they show?

Both learn from real images alone. The style classifier is a logistic
regression on a few statistics that anyone can check; the subject classifier a
small convolutional network. Must not know the model that is measured.
"""

import numpy as np
from PIL import Image

#: What `statistics` counts, in order.
STATISTICS = (
    "dark share",
    "white share",
    "grey share",
    "coloured share",
    "mean saturation",
    "mean steepness",
    "steep share",
)


def statistics(images: np.ndarray) -> np.ndarray:
    """A few numbers in [0, 1] about the look of images.

    Args:
        images: uint8 array `(N, H, W, 3)`.

    Returns:
        Float64 array `(N, 7)`, in the order of `STATISTICS`.
    """
    x = np.asarray(images, "float64") / 255.0
    light = x @ [0.299, 0.587, 0.114]
    saturation = x.max(-1) - x.min(-1)
    across = np.abs(np.diff(light, axis=2))[:, 1:, :]
    down = np.abs(np.diff(light, axis=1))[:, :, 1:]
    steep = np.maximum(across, down)
    columns = (
        light < 0.3,
        light > 0.92,
        (light >= 0.3) & (light <= 0.92) & (saturation < 0.12),
        saturation > 0.25,
        saturation,
        steep,
        steep > 0.25,
    )
    return np.stack([column.mean(axis=(1, 2)) for column in columns], -1)


class StyleClassifier:
    """Tells two styles apart by `statistics`.

    Args:
        others: uint8 array `(N, H, W, 3)`, images of the other styles.
        style: uint8 array `(M, H, W, 3)`, images of the style.
        decay: Float > 0, the weight of the squared coefficients.
        steps: Integer, steps of Newton's method.
    """

    def __init__(
        self,
        others: np.ndarray,
        style: np.ndarray,
        decay: float = 1e-2,
        steps: int = 20,
    ):
        features = np.concatenate([statistics(others), statistics(style)])
        self._mean, self._deviation = features.mean(0), features.std(0) + 1e-9
        x = self._standardised(features)
        answers = np.repeat([0.0, 1.0], [len(others), len(style)])
        self._weights = np.zeros(x.shape[1])
        penalty = decay * np.eye(x.shape[1])
        # The intercept is free.
        penalty[-1, -1] = 0.0
        for _ in range(steps):
            chances = self._chances(x)
            slope = x.T @ (chances - answers) / len(x) + penalty @ self._weights
            curve = (x.T * (chances * (1 - chances))) @ x / len(x) + penalty
            self._weights -= np.linalg.solve(curve, slope)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The chance in [0, 1] that each image is of the style."""
        return self._chances(self._standardised(statistics(images)))

    def _standardised(self, features):
        x = (features - self._mean) / self._deviation
        return np.concatenate([x, np.ones((len(x), 1))], axis=1)

    def _chances(self, x):
        return 1.0 / (1.0 + np.exp(-np.clip(x @ self._weights, -30, 30)))


SIDE = 64


class SubjectClassifier:
    """Names what an image shows, among the names it was trained on.

    Args:
        images: uint8 array `(N, H, W, 3)`, real images of all styles.
        names: List of `N` strings; a name may stand for several images.
        epochs: Integer.
        seed: Integer >= 0.
        verbose: As for `keras.Model.fit`.
    """

    def __init__(self, images, names, epochs=40, seed=0, verbose=2):
        import keras

        keras.utils.set_random_seed(seed)
        self.names = sorted(set(names))
        places = {name: place for place, name in enumerate(self.names)}
        answers = np.array([places[name] for name in names])
        self._network = _network(len(self.names))
        steps = epochs * -(-len(images) // 64)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps, warmup_target=2e-3, warmup_steps=steps // 10
        )
        self._network.compile(
            keras.optimizers.AdamW(rate, weight_decay=1e-2),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        generator = np.random.default_rng(seed)
        for epoch in range(epochs):
            x = _scaled(_moved(images, generator))
            order = generator.permutation(len(x))
            self._network.fit(
                x[order],
                answers[order],
                batch_size=64,
                initial_epoch=epoch,
                epochs=epoch + 1,
                verbose=verbose,
            )

    def rank(self, images: np.ndarray, names: "list[str]") -> np.ndarray:
        """The place of the right name among all, 0 for the first.

        Args:
            images: uint8 array `(N, H, W, 3)`.
            names: List of `N` strings.

        Returns:
            Int array `(N,)`.
        """
        small = np.stack([_resized(image) for image in images])
        logits = self._network.predict(_scaled(small), verbose=0)
        right = [self.names.index(name) for name in names]
        return (logits > logits[np.arange(len(logits)), right][:, None]).sum(1)


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


def _moved(images, generator):
    """Each image shifted, sized, turned, blurred, greyed, roughened."""
    return np.stack([_moved_one(image, generator) for image in images])


def _moved_one(image, generator):
    image = Image.fromarray(image)
    side = image.shape[0]
    scale = side / SIDE * generator.uniform(0.85, 1.2)
    angle = generator.normal(0.0, 0.1)
    turned = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    shift = generator.uniform(-0.06, 0.06, 2) * side
    offset = np.full(2, side / 2) - turned @ np.full(2, SIDE / 2) + shift
    if generator.random() < 0.5:
        # Generated images are softer than real ones.
        image = image.resize((side // 4,) * 2, Image.BOX)
        image = image.resize((side,) * 2, Image.BICUBIC)
    matrix = np.concatenate([turned, offset[:, None]], axis=1).ravel()
    image = image.transform(
        (SIDE, SIDE),
        Image.AFFINE,
        matrix.tolist(),
        Image.BILINEAR,
        fillcolor="white",
    )
    if generator.random() < 0.5:
        image = image.convert("L").convert("RGB")
    noise = generator.normal(0.0, generator.uniform(0, 24), (SIDE, SIDE, 3))
    return np.clip(np.asarray(image) + noise, 0, 255).astype("uint8")
