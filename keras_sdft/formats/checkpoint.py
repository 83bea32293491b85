"""A model on disk, opened: its spec, and weights that are read on demand.

Every dialect is read into a `Checkpoint` and written from one. Must not know
any dialect.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.weight_layout import find_variables
from keras_sdft.models.weight_layout import to_ours
from keras_sdft.models.weight_layout import to_theirs
from keras_sdft.models.weight_names import COMPONENTS
from keras_sdft.models.weight_names import NETWORKS
from keras_sdft.models.weight_names import Row
from keras_sdft.models.weight_names import component_rows

_WORDS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole Stable Diffusion model, not in memory yet.

    Attributes:
        format: The dialect's name.
        path: Where it is, for messages.
        spec: Its `StableDiffusionSpec`.
        components: Dict by component (`"text_encoder"`, `"unet"`, `"vae"`)
            of dicts of `Tensor` by diffusers' key.
        make_tokenizer: Function of `(max_length, pad_token)` that returns a
            `keras_sdft.models.Tokenizer`, or `None` where the format holds
            no vocabulary.
    """

    format: str
    path: str
    spec: StableDiffusionSpec
    components: dict[str, dict[str, Tensor]]
    make_tokenizer: Callable[[int, Any], Any] | None = None

    def load_network(self, name: str, model: Any) -> None:
        """Puts the weights of one network into a built model.

        Args:
            name: `"text_encoder"`, `"image_encoder"`, `"decoder"` or
                `"diffusion_model"`.
            model: Our network of the same spec, or KerasCV's.
        """
        component = component_of(name)
        tensors = self.components[component]
        rows = network_rows(name, self.spec)
        variables = find_variables(model, rows)
        for row in rows:
            array = tensors[row.theirs].read()
            if row.ours is not None:
                variable = variables[row.theirs]
                array = to_ours(row, array).reshape(variable.shape)
                variable.assign(array)
            elif not (array == row.fill).all():
                raise ValueError(
                    f"The weight {row.theirs!r} of {self.path!r} belongs to "
                    "a block that should do nothing, and does not. The "
                    "file was changed since keras_sdft wrote it; remove "
                    "'keras_sdft.vae_blocks' from its metadata."
                )

    def source(self, name: str) -> NetworkSource:
        """What `StableDiffusion` takes in place of a weight file."""
        return NetworkSource(self, name)


@dataclasses.dataclass(frozen=True)
class NetworkSource:
    """The weights of one network of a checkpoint, to be called on it."""

    checkpoint: Checkpoint
    name: str

    def __call__(self, model: Any) -> None:
        self.checkpoint.load_network(self.name, model)

    def describe(self) -> dict[str, Any]:
        """A dict of `file`, `parameters` and `dtype`; reads no weight."""
        tensors = self.checkpoint.components[component_of(self.name)]
        used = [
            tensors[row.theirs]
            for row in network_rows(self.name, self.checkpoint.spec)
            if row.ours is not None
        ]
        return {
            "file": self.checkpoint.path,
            "parameters": sum(int(np.prod(t.shape)) for t in used),
            "dtype": ", ".join(sorted({_WORDS[t.dtype] for t in used})),
        }


def component_of(network: str) -> str:
    """The component of diffusers that holds a network of ours."""
    for component, networks in NETWORKS.items():
        if network in networks:
            return component
    raise ValueError(
        f"`network` must be one of {sum(NETWORKS.values(), ())}. "
        f"Received: {network!r}."
    )


def network_rows(network: str, spec: StableDiffusionSpec) -> tuple[Row, ...]:
    """The rows of one network of ours."""
    rows = component_rows(component_of(network), spec)
    return tuple(row for row in rows if row.network == network)


def from_model(stable_diffusion: Any) -> Checkpoint:
    """A checkpoint of a model in memory.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.

    Returns:
        A `Checkpoint` that reads the model's variables when asked to.
    """
    found = {
        component: _variables(stable_diffusion, component)
        for component in COMPONENTS
    }
    return _of_model(stable_diffusion, found.__getitem__)


def from_files(make: Callable[[], Any]) -> Checkpoint:
    """A checkpoint of a model that Keras reads from files.

    Args:
        make: Function that returns a `keras_sdft.StableDiffusion` whose
            networks are not in memory yet, a new one each time.

    Returns:
        A `Checkpoint`. The networks of one component are in memory at a
        time.
    """
    return _of_model(make(), _OneComponent(make))


class _OneComponent:
    """The variables of whichever component was asked for last."""

    def __init__(self, make: Callable[[], Any]):
        self._make = make
        self._component: str | None = None
        self._found: dict[str, Any] = {}

    def __call__(self, component: str) -> dict[str, Any]:
        if component != self._component:
            self._component, self._found = None, {}
            # Layers and their model hold each other.
            gc.collect()
            self._found = _variables(self._make(), component)
            self._component = component
        return self._found


def _variables(stable_diffusion: Any, component: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in NETWORKS[component]:
        rows = network_rows(name, stable_diffusion.spec)
        found.update(find_variables(getattr(stable_diffusion, name), rows))
    return found


def _of_model(
    stable_diffusion: Any, variables: Callable[[str], dict[str, Any]]
) -> Checkpoint:
    spec = stable_diffusion.spec
    return Checkpoint(
        "keras",
        str(stable_diffusion.base),
        spec,
        {
            component: {
                row.theirs: _tensor_of(row, partial(variables, component))
                for row in component_rows(component, spec)
            }
            for component in COMPONENTS
        },
        lambda max_length, pad_token: stable_diffusion.tokenizer,
    )


def _tensor_of(row: Row, variables: Callable[[], dict[str, Any]]) -> Tensor:
    def read() -> np.ndarray:
        if row.ours is None:
            return np.full(row.shape, row.fill, "float32")
        variable = variables()[row.theirs]
        return to_theirs(row, np.asarray(variable, dtype="float32"))

    return Tensor(row.shape, "F32", read)


def check_tensors(
    path: Any, component: str, tensors: dict[str, Tensor], rows: Iterable[Row]
) -> dict[str, Tensor]:
    """Holds a file's tensors against the rows of a component.

    Args:
        path: Of the file, for messages.
        component: For messages.
        tensors: Dict of `Tensor` by diffusers' key.
        rows: The rows that are expected.

    Returns:
        The tensors by key, reshaped where only 1s differ.

    Raises:
        ValueError: If keys are missing or unexpected, or a shape or a
            dtype is wrong; names the first five of each and the count.
    """
    rows = list(rows)
    wanted = {row.theirs for row in rows}
    problems = [
        _listing(
            "missing", [r.theirs for r in rows if r.theirs not in tensors]
        ),
        _listing("unexpected", sorted(set(tensors) - wanted)),
    ]
    present = [row for row in rows if row.theirs in tensors]
    problems.append(
        _listing(
            "of another shape",
            [
                f"{row.theirs} {tensors[row.theirs].shape}, "
                f"expected {row.shape}"
                for row in present
                if _sides(tensors[row.theirs].shape) != _sides(row.shape)
            ],
        )
    )
    problems.append(
        _listing(
            f"of another dtype than {', '.join(_WORDS)}",
            [
                f"{row.theirs} {tensors[row.theirs].dtype}"
                for row in present
                if tensors[row.theirs].dtype not in _WORDS
            ],
        )
    )
    problems = [problem for problem in problems if problem]
    if problems:
        raise ValueError(
            f"The weights of the {component} in {str(path)!r} do not fit: "
            + "; ".join(problems)
            + "."
        )
    return {row.theirs: _shaped(tensors[row.theirs], row) for row in rows}


def _listing(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > 5 else ""
    return f"{len(names)} {what} ({', '.join(names[:5])}{more})"


def _sides(shape: tuple[int, ...]) -> list[int]:
    """A kernel's sides, for which a 1x1 convolution is a matrix."""
    if len(shape) == 4 and shape[2:] == (1, 1):
        return list(shape[:2])
    return list(shape)


def _shaped(tensor: Tensor, row: Row) -> Tensor:
    if tensor.shape == row.shape:
        return tensor
    return Tensor(
        row.shape, tensor.dtype, lambda: tensor.read().reshape(row.shape)
    )
