"""What a `StableDiffusion` does with LoRA and embedding files."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class AdapterMethods:
    """Loads, scales, merges and unloads adapters of the networks."""

    _adapters: Any = None

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
