"""Model cards: the `README.md` of an exported directory, as the Hub reads it.

Must not know how a model was trained, nor what else a directory holds.
"""

import dataclasses
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import Literal

CARD_FILE = "README.md"
MAX_IMAGES = 4
# What the Hub takes for models whose licence nobody has stated.
UNKNOWN = "unknown"
IMAGE_FILES = tuple(f"image_{index}.png" for index in range(MAX_IMAGES))

_MARK = (
    "<!-- Written by keras_sdft, which replaces this file with the weights. "
    "Remove this line to keep your changes. -->"
)
_TRAINING = "## Training"
_HUB_NAMES = {
    "sd1.4": "CompVis/stable-diffusion-v1-4",
    "sd2.1-base": "stabilityai/stable-diffusion-2-1-base",
}
_USE = {
    "model": """\
import keras_sdft

sd = keras_sdft.StableDiffusion.from_preset("THIS_DIRECTORY")
images = sd.text_to_image({prompt!r}, seed=0)""",
    "pipeline": """\
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("THIS_DIRECTORY")
image = pipeline({prompt!r}).images[0]""",
    "lora": """\
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained({base!r})
pipeline.load_lora_weights("THIS_DIRECTORY")
image = pipeline({prompt!r}).images[0]""",
    "embedding": """\
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained({base!r})
pipeline.load_textual_inversion("THIS_DIRECTORY")
image = pipeline({prompt!r}).images[0]""",
}
_TITLES = {
    "model": "Stable Diffusion",
    "pipeline": "Stable Diffusion",
    "lora": "A LoRA for Stable Diffusion",
    "embedding": "An embedding for Stable Diffusion",
}
_TAGS = {
    "model": ("keras",),
    "pipeline": ("diffusers",),
    "lora": ("diffusers", "lora"),
    "embedding": ("diffusers", "textual_inversion"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is said of a model where it is shared.

    Args:
        title: String, the heading. Defaults to what it is.
        kind: `"model"` (Keras weights), `"pipeline"` (a diffusers folder),
            `"lora"` or `"embedding"`.
        base_model: String, the model that was trained from, by its name on
            the Hub where it has one; `None` if it is not known.
        license: String, as the Hub spells it. Defaults to `"unknown"`.
        instance_prompt: String, the prompt of a subject that was trained,
            or `None`.
        images: Tuple of pairs of a prompt and its image: a
            `PIL.Image.Image`, or the path of a PNG. The first four are used.
        details: Dict of texts and numbers, how it was trained.
    """

    title: str | None = None
    kind: Literal["model", "pipeline", "lora", "embedding"] = "model"
    base_model: str | None = None
    license: str = UNKNOWN
    instance_prompt: str | None = None
    images: tuple[tuple[str, Any], ...] = ()
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def files(self, directory: str | Path) -> dict[str, Any]:
        """Returns what to write beside a model in a directory.

        Args:
            directory: Where it will be.

        Returns:
            Dict of functions that write a path, by the name of the file;
            empty if a `README.md` of somebody else is there.
        """
        if not is_free(directory):
            return {}
        found: dict[str, Any] = {CARD_FILE: self._write}
        for name, (_, image) in zip(IMAGE_FILES, self.images, strict=False):
            found[name] = lambda path, image=image: _write_image(path, image)
        return found

    def write(self, directory: Path) -> None:
        """Writes the card and its images into a directory."""
        for name, write in self.files(directory).items():
            write(directory / name)

    def text(self) -> str:
        """Returns the card in Markdown, with the Hub's front matter."""
        # A look at a file needs no YAML.
        import yaml

        front = yaml.safe_dump(
            self._front_matter(), sort_keys=False, allow_unicode=True
        )
        sections = [
            f"---\n{front}---\n{_MARK}",
            f"# {self.title or _TITLES[self.kind]}",
            *(
                f"![{_plain(prompt)}]({name})\n\n`{_plain(prompt)}`"
                for name, (prompt, _) in zip(
                    IMAGE_FILES, self.images, strict=False
                )
            ),
            f"## Use\n\n```python\n{self._use()}\n```",
        ]
        table = "\n".join(
            f"| {name} | {_plain(str(value))} |"
            for name, value in self.details.items()
            if value is not None
        )
        if table:
            sections.append(f"{_TRAINING}\n\n| | |\n|---|---|\n{table}")
        if self.license == UNKNOWN:
            sections.append(
                "## License\n\nNobody has stated one for these weights. That "
                "of the model that they were trained from applies."
            )
        return "\n\n".join(sections) + "\n"

    def _front_matter(self) -> dict[str, Any]:
        tags = ("stable-diffusion", "text-to-image", *_TAGS[self.kind])
        is_keras = self.kind == "model"
        found = {
            "license": self.license,
            "base_model": self.base_model,
            "library_name": "keras_sdft" if is_keras else "diffusers",
            "pipeline_tag": "text-to-image",
            "tags": [*tags, "keras_sdft"],
            "instance_prompt": self.instance_prompt,
            "widget": [
                {"text": prompt, "output": {"url": name}}
                for name, (prompt, _) in zip(
                    IMAGE_FILES, self.images, strict=False
                )
            ]
            or None,
        }
        return {name: v for name, v in found.items() if v is not None}

    def _use(self) -> str:
        prompt = self.instance_prompt or "a prompt"
        if self.images:
            prompt = self.images[0][0]
        base = self.base_model or "THE_BASE_MODEL"
        return _USE[self.kind].format(prompt=prompt, base=base)

    def _write(self, path: Path) -> None:
        path.write_text(self.text(), encoding="utf-8")


def read_card(directory: str | Path) -> ModelCard:
    """Returns what the card in a directory says; of somebody else's too.

    Args:
        directory: An exported directory, a run or a diffusers folder.
    """
    for folder in (Path(directory), Path(directory) / "weights"):
        front = _read_front_matter(folder / CARD_FILE)
        if not front:
            continue
        texts = {
            name: front[name]
            for name in ("license", "base_model", "instance_prompt")
            if isinstance(front.get(name), str)
        }
        images = _images(folder, front.get("widget"))
        details = _details(_read(folder / CARD_FILE))
        return ModelCard(**texts, images=images, details=details)
    return ModelCard()


def card_files(directory: str | Path) -> tuple[str, ...]:
    """Returns the names of what `ModelCard.write` has written there."""
    if _MARK not in _read(Path(directory) / CARD_FILE):
        return ()
    return (CARD_FILE, *IMAGE_FILES)


def hub_name(base: str, origin: str | Path | None = None) -> str | None:
    """Returns the name on the Hub of a preset, an address or a cached path.

    Args:
        base: String, the name of a preset.
        origin: Path or address of the model that the preset stands for, if
            any.
    """
    if origin is None:
        return _HUB_NAMES.get(base)
    text = str(origin)
    match = re.search(r"models--([^/]+)--([^/]+)", text)
    match = match or re.match(r"hf://([^/@]+)/([^/@]+)", text)
    return f"{match[1]}/{match[2]}" if match else None


def is_free(directory: str | Path) -> bool:
    """Returns whether a directory has no card, or one that we wrote."""
    path = Path(directory) / CARD_FILE
    return not path.exists() or _MARK in _read(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_front_matter(path: Path) -> dict[str, Any]:
    import yaml

    match = re.match(r"---\n(.*?)\n---", _read(path), re.DOTALL)
    try:
        found = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        found = None
    return found if isinstance(found, dict) else {}


def _details(text: str) -> dict[str, str]:
    """Returns the table of a card of ours."""
    table = text.partition(_TRAINING)[2] if _MARK in text else ""
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE)
    return {name: re.sub(r"\\(.)", r"\1", value) for name, value in rows}


def _images(folder: Path, widget: Any) -> tuple[tuple[str, Path], ...]:
    """Returns the prompts of a card whose images are ours."""
    found = []
    for row in widget if isinstance(widget, list) else ():
        try:
            prompt, name = row["text"], row["output"]["url"]
        except (KeyError, TypeError):
            continue
        if name in IMAGE_FILES and (folder / name).is_file():
            found.append((str(prompt), folder / name))
    return tuple(found)


def _write_image(path: Path, image: Any) -> None:
    if isinstance(image, (str, Path)):
        shutil.copyfile(image, path)
    else:
        image.save(path, "PNG")


def _plain(text: str) -> str:
    """Returns text that means nothing in a table of Markdown."""
    return re.sub(r"([|`<>\[\]])", r"\\\1", " ".join(text.split()))
