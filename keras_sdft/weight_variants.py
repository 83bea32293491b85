"""Names of weight files by variant, as diffusers and transformers write them.

The variant of `model.fp16.safetensors` is `"fp16"`, and `""` the plain one.
Must not know folders, nor what is in a file.
"""

import re
from collections.abc import Iterable
from collections.abc import Mapping

STEMS = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
Variants = Mapping[str, list[str]]


def by_variant(names: Iterable[str], component: str) -> dict[str, list[str]]:
    """Returns the safetensors files of a component's folder by variant.

    Args:
        names: Strings, names of files.
        component: A name of `STEMS`.

    Returns:
        Dict of lists: of one file, or of an index and its shards.
    """
    stem = STEMS[component]
    # The variant stood after a shard's number in earlier versions.
    weights = re.compile(
        rf"{stem}(?:\.([\w-]+?))?(-\d+-of-\d+)?(?:\.([\w-]+?))?\.safetensors"
    )
    index = re.compile(rf"{stem}\.safetensors\.index(?:\.([\w-]+))?\.json")
    whole: dict[str, list[str]] = {}
    shards: dict[str, list[str]] = {}
    for name in sorted(names):
        if found := index.fullmatch(name):
            shards.setdefault(found[1] or "", []).insert(0, name)
        elif found := weights.fullmatch(name):
            kind = shards if found[2] else whole
            kind.setdefault(found[1] or found[3] or "", []).append(name)
    with_index = {v: f for v, f in shards.items() if f[0].endswith(".json")}
    return with_index | whole


def choose(
    found: Mapping[str, Variants], variant: str | None, where: str
) -> tuple[dict[str, list[str]], list[str]]:
    """Chooses the files of each component.

    Args:
        found: Dict by component of `by_variant`.
        variant: String, which to take where there are several, or `None`
            for the plain ones, or the only ones.
        where: String, what has them, for an error.

    Returns:
        Dict by component of the names of files, and a list of the components
        that lack the variant, of which the plain ones are taken.

    Raises:
        ValueError: If no component has the variant, or which one to take is
            not clear.
    """
    lacking = [name for name, f in found.items() if variant not in f]
    if variant is not None and len(lacking) == len(found):
        every = {one for variants in found.values() for one in variants}
        raise ValueError(_message(where, every, variant))
    chosen = {}
    for name, variants in found.items():
        if variant is not None and variant in variants:
            chosen[name] = variants[variant]
        elif "" in variants or len(variants) == 1:
            chosen[name] = variants.get("") or next(iter(variants.values()))
        else:
            raise ValueError(
                _message(f"the {name} of {where}", variants, variant)
            )
    return chosen, [] if variant is None else lacking


def _message(where: str, variants: Iterable[str], variant: str | None) -> str:
    text = (
        f"{where} has weights of the variants "
        f"{[name or None for name in sorted(variants)]}. Choose one with "
        "`variant`, as `keras-sdft convert` takes it. Received: "
        f"variant={variant!r}."
    )
    return text[0].upper() + text[1:]
