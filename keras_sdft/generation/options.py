"""What to generate: prompts, seeds, and how.

Must not know models or files of images.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any
from typing import Literal

from keras_sdft import checks
from keras_sdft import parsing
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.runs.record import read_record

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
_MAX_BYTES = 10_000_000


@dataclasses.dataclass(frozen=True)
class Request:
    """One image.

    Attributes:
        prompt: String.
        negative_prompt: String or `None`.
        seed: Integer.
    """

    prompt: str
    negative_prompt: str | None
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The images: what to generate, and where to.

    Args:
        prompt: One text or several; `--prompt` may be repeated.
        prompt_file: Text file with a prompt in each line; lines that begin
            with # are passed over.
        output: Path of a .png, .jpg or .webp file, or of a folder. With
            several images the file is their grid, and OUT_0.png, OUT_1.png
            and so on are the images.
        num_images: Images for each prompt.
        num_steps: Sampling steps, 1 to 1000. Defaults to those of the
            run's previews, else the model's own, 25 at most.
        guidance_scale: How much the prompt counts; up to 1 it is used alone.
            Defaults to that of the run's previews, else the model's own.
        sampler: How noise becomes an image; dpmpp_2m needs about half as
            many steps.
        seed: Seed of a prompt's first image, to which each next one adds 1;
            or a seed for each of its images. Defaults to 0.
        negative_prompt: What the images should not show; one text, or one
            for each prompt.
        batch_size: Images generated at once. Defaults to what memory holds,
            8 at most.
        height: Height in pixels. Defaults to the model's own.
        width: Width in pixels. Defaults to the model's own.
        overwrite: Replace the files if they exist.
    """

    prompt: list[str] | None = None
    prompt_file: str | None = None
    output: str
    num_images: int = 1
    num_steps: int | None = None
    guidance_scale: float | None = None
    sampler: Literal["ddim", "dpmpp_2m"] = "ddim"
    seed: list[int] | None = None
    negative_prompt: list[str] | None = None
    batch_size: int | None = None
    height: int | None = None
    width: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.prompt and self.prompt_file is None:
            raise ValueError(
                "There is nothing to generate. Give `prompt`, or `prompt_file`."
            )
        suffix = Path(self.output).suffix
        if not self.is_folder and suffix.lower() not in EXTENSIONS:
            raise ValueError(
                f"`output` must end in one of {list(EXTENSIONS)}, or be a "
                f"folder, ending in {os.sep!r}. Received: {self.output!r}."
            )
        checks.counts(self, "num_images", "batch_size")
        scale = self.guidance_scale
        checks.optional(checks.integer, "num_steps", self.num_steps, 1, 1000)
        checks.optional(checks.number, "guidance_scale", scale, 0)
        for seed in self.seed or ():
            checks.integer("seed", seed, 0)
        if len(self.seed or ()) > 1 and self.num_images > 1:
            raise ValueError(
                "Each of several seeds is an image of every prompt, so "
                "`num_images` has no effect. Received: "
                f"num_images={self.num_images}, seed={self.seed}. Leave out "
                "the one or the other."
            )
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                checks.multiple_of(name, getattr(self, name), 64, " pixels")

    @property
    def is_folder(self) -> bool:
        """Whether `output` is a folder, which may not exist yet."""
        path = Path(self.output)
        ends = self.output.endswith(("/", os.sep))
        if path.suffix.lower() in EXTENSIONS and not ends:
            return False
        return ends or path.is_dir() or not path.suffix

    @property
    def seeds(self) -> list[int]:
        """The seeds of each prompt's images."""
        given = self.seed or [0]
        if len(given) > 1:
            return list(given)
        return list(range(given[0], given[0] + self.num_images))

    def prompts(self) -> list[str]:
        """Returns all prompts; those of the file come last.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it holds no prompt.
        """
        found = list(self.prompt or ())
        if self.prompt_file is not None:
            lines = parsing.read_text(self.prompt_file, _MAX_BYTES).splitlines()
            texts = [line.strip() for line in lines]
            found += [t for t in texts if t and not t.startswith("#")]
        if not found:
            raise ValueError(
                f"`prompt_file` {self.prompt_file!r} holds no prompt. Expected "
                "one in each line."
            )
        return found

    def requests(self) -> list[Request]:
        """Returns the images, those of a prompt in a row.

        Raises:
            ValueError: If there are negative prompts, and neither one nor as
                many as prompts.
        """
        prompts = self.prompts()
        negatives: list[str | None] = [*(self.negative_prompt or [None])]
        if len(negatives) == 1:
            negatives *= len(prompts)
        if len(negatives) != len(prompts):
            raise ValueError(
                "`negative_prompt` must be one text or one for each prompt. "
                f"Received: {len(negatives)} for {len(prompts)} prompts."
            )
        return [
            Request(prompt, negative, seed)
            for prompt, negative in zip(prompts, negatives, strict=True)
            for seed in self.seeds
        ]

    def resolved(
        self, model: str, spec: StableDiffusionSpec
    ) -> "GenerateOptions":
        """Returns the options with numbers for steps and guidance.

        With the same prompt and seed, a run then shows its last preview.

        Args:
            model: Path of a run, or any other model.
            spec: The model's `StableDiffusionSpec`.
        """
        own = _previews_of(model)
        steps, scale = self.num_steps, self.guidance_scale
        if steps is None:
            steps = own.get("preview_num_steps")
        if scale is None:
            scale = own.get("preview_guidance_scale")
        sampling = spec.sampling(steps, scale, quick=True)
        return dataclasses.replace(self, **sampling)


def _previews_of(model: str) -> dict[str, Any]:
    """Returns the saved flags of a run; none of another model."""
    import yaml

    config = Path(model) / "config.yaml"
    if not config.is_file() or read_record(model) is None:
        return {}
    found = yaml.safe_load(parsing.read_text(config, _MAX_BYTES))
    return found if isinstance(found, dict) else {}
