"""What a `StableDiffusion` does with LoRA and embedding files.

And with the weights that stay as they are beside them.
"""

import importlib
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_sdft import checks
from keras_sdft.models import frozen_kernels
from keras_sdft.models.spec import FROZEN_DTYPES


class AdapterMethods:
    """Loads, scales, merges and unloads adapters of the networks."""

    _adapters: Any = None
    trained_parts: set[str]

    @property
    def adapters(self) -> Any:
        """The adapters that were loaded, a `LoadedAdapters`."""
        if self._adapters is None:
            # By name, as readers of foreign files are: adapters import
            # models.
            home = importlib.import_module("keras_sdft.adapters")
            self._adapters = home.LoadedAdapters(self)
        return self._adapters

    @property
    def has_adapters(self) -> bool:
        """Whether a LoRA is loaded that is not merged."""
        return self._adapters is not None and bool(self._adapters.loras)

    def describe_adapters(self) -> str:
        """Returns the names of LoRAs, with strengths, and of new words."""
        if self._adapters is None:
            return ""
        loras = [
            f"{name} x {float(lora.strength.value):g}"
            for name, lora in self._adapters.loras.items()
        ]
        return ", ".join([*loras, *self._adapters.embeddings])

    def load_adapter(
        self, path: str | Path, scale: float = 1.0, name: str | None = None
    ) -> str:
        """Adds a LoRA to the networks, beside those that are loaded.

        Args:
            path: A `.safetensors` file in diffusers', PEFT's or kohya's
                layout, or a run that trained one.
            scale: Float, how strongly it is added.
            name: String, what it is called. Defaults to the file's name.

        Returns:
            Its name.

        Raises:
            ValueError: If the file is no LoRA for this model, or the name
                is taken.
        """
        return self.adapters.load(path, scale, name)

    def load_embedding(
        self, path: str | Path, token: str | None = None
    ) -> list[str]:
        """Adds the tokens of a textual inversion file to the vocabulary.

        Args:
            path: A `.safetensors` file of diffusers or A1111.
            token: String, the token, where the file does not name it.
                Defaults to the file's name.

        Returns:
            List of the tokens, to be used in prompts.

        Raises:
            ValueError: If the file is no embedding for this model, or a
                token is taken.
        """
        return self.adapters.load_embedding(path, token)

    def set_adapters(self, scales: Mapping[str, float]) -> None:
        """Sets the strength of LoRAs; those that are not named are off.

        Args:
            scales: Dict of floats by name.
        """
        self.adapters.set(scales)

    def merge_adapters(self, names: Iterable[str] | None = None) -> None:
        """Adds LoRAs to the networks' weights for good.

        Args:
            names: Names of LoRAs. Defaults to all.
        """
        self.adapters.merge(names)

    def unload_adapters(self, names: Iterable[str] | None = None) -> None:
        """Removes LoRAs and embeddings; what is left is the base.

        Args:
            names: Names of LoRAs and tokens. Defaults to all.
        """
        self.adapters.unload(names)

    # === Frozen weights ===

    @property
    def _held(self) -> dict[str, str]:
        """The dtypes that kernels of networks are held in, by part."""
        return vars(self).setdefault("_held_dtypes", {})

    def hold_kernels(self, part: str, dtype: str) -> None:
        """Holds the kernels of a network that does not learn in fewer bits.

        They are rounded for good: to merge or to write the model, load it
        again.

        Args:
            part: `"diffusion_model"` or `"text_encoder"`.
            dtype: `"float32"`, which changes nothing, `"bfloat16"`, or
                `"int8"` with a scale for each output.

        Raises:
            ValueError: If an export must hold the network's weights.
        """
        checks.one_of("dtype", dtype, FROZEN_DTYPES)
        if dtype != "float32" and part in self.trained_parts:
            raise ValueError(
                f"The weights of the {part} were trained, and an export "
                "must hold them as they are, so they cannot be held in "
                f"{dtype}. If they are in a file, write a whole model first "
                "(`keras-sdft convert --model RUN --output BASE --format "
                "diffusers`) and train on that; else use float32."
            )
        if getattr(self, f"_{part}", None) is not None:
            frozen_kernels.hold(getattr(self, part), dtype)
        self._held[part] = dtype

    def check_full_precision(self, parts: Iterable[str] | None = None) -> None:
        """Refuses a network whose kernels are held in fewer bits.

        Args:
            parts: Names of networks. Defaults to all.

        Raises:
            ValueError: If there is one.
        """
        for part, dtype in self._held.items():
            if dtype != "float32" and (parts is None or part in parts):
                raise ValueError(
                    f"The kernels of the {part} are held in {dtype}, and "
                    "were rounded. Load the model again with "
                    "`StableDiffusion.from_preset`; to merge a LoRA that was "
                    "trained on them, save it, and `load_adapter` it there."
                )
