"""Addresses of the Hugging Face Hub, and which files are needed of them.

Must not know the network, nor what is in a file.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Iterable

from keras_sdft import weight_variants

PREFIX = "hf://"
FORM = "hf://owner/name, hf://owner/name@revision or hf://owner/name/file"

_DATASETS = "datasets/"
_ADDRESS = re.compile(
    rf"{PREFIX}(?P<datasets>{_DATASETS})?(?P<repo>[\w.-]+/[\w.-]+)"
    # A revision holds a slash in these two cases alone.
    r"(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^/@]+))?"
    r"(?:/(?P<path>[^@]+?))?/?"
)
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# Of a pipeline, beside the weights of its networks.
_PIPELINE = (
    "README.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/*.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    "vae/config.json",
)
_EXPORT = (
    "README.md",
    "keras_sdft.json",
    "*.weights.h5",
    "*.safetensors",
)
# Images, captions and tables.
_DATA = tuple(
    f"*.{ending}"
    for ending in (
        "avif bmp gif jfif jpeg jpg pgm png ppm tif tiff webp heic heif "
        "txt caption csv jsonl parquet"
    ).split()
)
# The file that an adapter is in, where there are several.
_ADAPTERS = {
    "lora": "pytorch_lora_weights.safetensors",
    "embedding": "learned_embeds.safetensors",
}


@dataclasses.dataclass(frozen=True)
class Address:
    """A repository of the Hub, or a file or folder in it.

    Attributes:
        repo: String, `"owner/name"`.
        revision: String, a branch, tag or commit, or `None` for the newest.
        path: String, a file or folder inside, or `""` for all of it.
        kind: String, what it is for: `"model"`, `"vae"`, `"lora"`,
            `"embedding"` or `"data"`.
        variant: String, which weights of a pipeline, `"fp16"` for example,
            or `None` for the plain ones, or the only ones.
    """

    repo: str
    revision: str | None
    path: str
    kind: str
    # What the repository has does not depend on it.
    variant: str | None = dataclasses.field(default=None, compare=False)

    @property
    def repo_type(self) -> str:
        return "dataset" if self.kind == "data" else "model"

    @property
    def what(self) -> str:
        return f"{self.repo_type.replace('dataset', 'data set')} {self}"

    def at(self, commit: str) -> "Address":
        """Returns the same of one commit."""
        return dataclasses.replace(self, revision=commit)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        path = f"/{self.path}" if self.path else ""
        return f"{PREFIX}{self.repo}{revision}{path}"


def parse(text: str, kind: str, variant: str | None = None) -> Address:
    """Reads an address.

    Args:
        text: String, the address.
        kind: See `Address`.
        variant: See `Address`.

    Raises:
        ValueError: If it has another form.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"Expected {FORM}. Received: {text!r}.")
    if match["datasets"] and kind != "data":
        raise ValueError(
            f"{text!r} is a data set, and a model is expected here. Give it "
            "as the data."
        )
    path = match["path"] or ""
    return Address(match["repo"], match["revision"], path, kind, variant)


def choose(names: Iterable[str], address: Address) -> list[str]:
    """Chooses the files that are needed of those that a repository has.

    Args:
        names: Strings, paths inside the repository.
        address: `Address`.

    Returns:
        List of strings. Of one that is alone the file is meant, else the
        folder.

    Raises:
        ValueError: If there are none, or which one is not clear.
    """
    names = sorted(names)
    if address.path in names:
        _refuse_variant(address)
        _refuse_pickles([address.path], address)
        return [address.path]
    prefix = f"{address.path}/" if address.path else ""
    inside = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
    if not inside:
        raise ValueError(
            f"There is no {address.path!r} in the {address.what}. It has: "
            f"{', '.join(names[:8]) or 'nothing'}."
        )
    if address.kind == "data":
        found = _matching(inside, _DATA)
        if not found:
            raise ValueError(
                f"The {address.what} has no images and no parquet files. It "
                f"has: {', '.join(inside[:8])}. Archives (.zip, .tar) are not "
                "read: unpack them, and give the folder."
            )
    else:
        found = _of_model(inside, address)
    return [prefix + name for name in found]


def data_patterns(address: Address) -> list[str]:
    """Returns the patterns of what is read of a data set."""
    prefix = f"{address.path}/" if address.path else ""
    return [prefix + pattern for pattern in _DATA]


def _of_model(names: list[str], address: Address) -> list[str]:
    adapter = _ADAPTERS.get(address.kind)
    if adapter in names:
        return [adapter]
    if adapter is None and "model_index.json" in names:
        parts = ["vae"]
        if address.kind == "model":
            parts += ["text_encoder", "unet"]
        return [
            *_matching(names, _PIPELINE),
            *_weights(names, {part: f"{part}/" for part in parts}, address),
        ]
    _refuse_variant(address)
    if address.kind == "model" and "keras_sdft.json" in names:
        return [n for n in _matching(names, _EXPORT) if "/" not in n]
    if address.kind == "vae" and "config.json" in names:
        return ["config.json", *_weights(names, {"vae": ""}, address)]
    return _only_file(names, address)


def _weights(
    names: list[str], prefixes: dict[str, str], address: Address
) -> list[str]:
    """Returns the weights of components, of one variant.

    Args:
        names: Strings, paths inside the address.
        prefixes: Dict by component of what its paths begin with.
        address: `Address`.
    """
    found = {}
    for part, prefix in prefixes.items():
        own = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
        found[part] = weight_variants.by_variant(own, part)
        if not found[part]:
            _refuse_pickles([prefix + n for n in own], address)
            raise ValueError(
                f"The {address.what} has no weights as safetensors in "
                f"{prefix or 'it'}. It has: {', '.join(own[:8]) or 'nothing'}."
            )
    where = f"the {address.what}"
    chosen, _ = weight_variants.choose(found, address.variant, where)
    return [prefixes[p] + name for p, files in chosen.items() for name in files]


def _only_file(names: list[str], address: Address) -> list[str]:
    found = [n for n in names if n.endswith(".safetensors") and "/" not in n]
    if len(found) > 1 and address.kind == "embedding":
        found = [n for n in found if n != _ADAPTERS["lora"]]
    if len(found) == 1:
        return found
    if found:
        each = ", ".join(
            str(dataclasses.replace(address, path=n)) for n in found[:4]
        )
        raise ValueError(
            f"The {address.what} has {len(found)} files of weights. Name one "
            f"of them: {each}."
        )
    _refuse_pickles([n for n in names if n.endswith(_PICKLES)], address)
    raise ValueError(
        f"The {address.what} has no weights as safetensors. It has: "
        f"{', '.join(names[:8])}."
    )


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [
        name
        for name in names
        if any(fnmatch.fnmatchcase(name.lower(), p.lower()) for p in patterns)
    ]


def _refuse_variant(address: Address) -> None:
    if address.variant is not None:
        raise ValueError(
            f"Only a diffusers folder has variants, and the {address.what} is "
            f"none. Received: variant={address.variant!r}."
        )


def _refuse_pickles(names: list[str], address: Address) -> None:
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        raise ValueError(
            f"The {address.what} has its weights as pickles alone "
            f"({', '.join(pickles[:3])}), and loading one can execute code "
            "that is hidden in it. Expected safetensors: look for a revision "
            "that has them, or write it again with diffusers' "
            "`save_pretrained(..., safe_serialization=True)`."
        )
