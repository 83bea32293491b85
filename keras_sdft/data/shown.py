"""What a dataset of batches tells of itself, as text and in a notebook.

Reads images of the source, and takes no batch, which might count as a pass.
"""

import functools
import html
from typing import Any

from keras_sdft import reprs
from keras_sdft.data.examples import Examples
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.images import read_image

_IMAGES = 8
_SIDE = 144
_FIGURE = (
    '<figure style="display:inline-block;margin:4px;width:{side}px;'
    'vertical-align:top"><img src="{data}" alt="">'
    '<figcaption style="font-size:11px">{caption}</figcaption></figure>'
)


def show(dataset: Any, examples: Examples, sources: list[Examples]) -> Any:
    """Lets a `tf.data.Dataset` tell what it is; returns it."""
    # `repr` asks the class, and the class of a dataset is TensorFlow's own.
    methods = {
        "__repr__": functools.partialmethod(_text, sources),
        "_repr_html_": functools.partialmethod(_page, examples),
    }
    dataset.__class__ = type("Batches", (type(dataset),), methods)
    return dataset


def _text(dataset: Any, sources: list[Examples]) -> str:
    spec, count = dataset.element_spec, int(dataset.cardinality())
    size = next(iter(spec.values())).shape[0]
    number = "endless" if count < 0 else f"{count:,} an epoch"
    shapes = [
        f"{name} {tuple(each.shape)} {each.dtype.name}"
        for name, each in spec.items()
    ]
    told = {
        f"source {place}": source.summary().replace("\n  ", "; ")
        for place, source in enumerate(sources, start=1)
    }
    rows = {"batches": f"{number}, of {size}", "each": ", ".join(shapes)}
    return reprs.lines("Captioned images", rows | told)


def _page(dataset: Any, examples: Examples) -> str:
    """Returns the same, and the first images with their captions, as HTML."""
    figures = []
    for index in range(min(_IMAGES, len(examples))):
        example = examples[index]
        try:
            image = read_image(example.image, (_SIDE, _SIDE))
        except UnreadableImage:
            continue
        data = reprs.data_uri(image, _SIDE)
        caption = html.escape(example.captions[0])
        figures.append(_FIGURE.format(side=_SIDE, data=data, caption=caption))
    return f"<pre>{html.escape(repr(dataset))}</pre>{''.join(figures)}"
