"""A model on disk, opened: its spec, and weights that are read on demand.

Every dialect is read into a `Checkpoint` and written from one. Must not know
any dialect.
"""

import dataclasses
import gc
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from keras_sdft.checks import one_of
from keras_sdft.formats.safetensors_files import NAMES
from keras_sdft.formats.safetensors_files import Tensor
from keras_sdft.models.model_card import ModelCard
from keras_sdft.models.model_card import hub_name
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.weight_files import check_finite
from keras_sdft.models.weight_layout import find_variables
from keras_sdft.models.weight_layout import to_ours
from keras_sdft.models.weight_layout import to_theirs
from keras_sdft.models.weight_names import COMPONENTS
from keras_sdft.models.weight_names import NETWORKS
from keras_sdft.models.weight_names import Row
from keras_sdft.models.weight_names import component_rows


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
        scheduler: diffusers' configuration of the scheduler, or `None`
            where the format holds none.
        notes: What is on disk and not in this checkpoint, a sentence each.
        card: Its `keras_sdft.models.ModelCard`.
    """

    format: str
    path: str
    spec: StableDiffusionSpec
    components: dict[str, dict[str, Tensor]]
    make_tokenizer: Callable[[int, Any], Any] | None = None
    scheduler: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    card: ModelCard = ModelCard()

    def load_network(self, name: str, model: Any) -> None:
        """Loads the weights of one network into a built model.

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
                    f"The weight {row.theirs!r} of {self.path!r} is not "
                    f"{row.fill}, as in a block without effect. The file was "
                    "changed since keras_sdft wrote it: remove "
                    "'keras_sdft.vae_blocks' from its metadata."
                )

    def source(self, name: str) -> "NetworkSource":
        """Returns what `StableDiffusion` takes in place of a weight file."""
        return NetworkSource(self, name)


@dataclasses.dataclass(frozen=True)
class NetworkSource:
    """The weights of one network of a checkpoint, to be called on it."""

    checkpoint: Checkpoint
    name: str

    def __call__(self, model: Any) -> None:
        self.checkpoint.load_network(self.name, model)

    def describe(self) -> dict[str, Any]:
        """Returns `file`, `parameters` and `dtype`; reads no weight."""
        used = self._tensors()
        return {
            "file": self.checkpoint.path,
            "parameters": sum(math.prod(t.shape) for t in used),
            "dtype": ", ".join(sorted({NAMES[t.dtype] for t in used})),
        }

    def check(self) -> None:
        """Reads every weight; raises `NonFiniteWeights` at the first."""
        for tensor in self._tensors():
            tensor.read()

    def _tensors(self) -> list[Tensor]:
        tensors = self.checkpoint.components[component_of(self.name)]
        return [
            tensors[row.theirs]
            for row in network_rows(self.name, self.checkpoint.spec)
            if row.ours is not None
        ]


def component_of(network: str) -> str:
    """Returns the component of diffusers that holds a network of ours."""
    one_of("network", network, sum(NETWORKS.values(), ()))
    return next(c for c, names in NETWORKS.items() if network in names)


def network_rows(network: str, spec: StableDiffusionSpec) -> tuple[Row, ...]:
    """Returns the rows of one network of ours."""
    rows = component_rows(component_of(network), spec)
    return tuple(row for row in rows if row.network == network)


def from_model(stable_diffusion: Any) -> Checkpoint:
    """Returns a checkpoint of a model in memory.

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
    """Returns a checkpoint of a model that Keras reads from files.

    Args:
        make: Function that returns a `keras_sdft.StableDiffusion` whose
            networks are not in memory yet, a new one each time.

    Returns:
        A `Checkpoint`. The networks of one component are in memory at a
        time.
    """
    return _of_model(make(), _OneComponent(make))


class _OneComponent:
    """Holds the variables of the component that was asked for last."""

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
        card=ModelCard(
            base_model=hub_name(stable_diffusion.base, stable_diffusion.origin)
        ),
    )


def _tensor_of(row: Row, variables: Callable[[], dict[str, Any]]) -> Tensor:
    def read() -> np.ndarray:
        if row.ours is None:
            return np.full(row.shape, row.fill, "float32")
        variable = variables()[row.theirs]
        array = np.asarray(variable, dtype="float32")
        check_finite("the model", row.theirs, array)
        return to_theirs(row, array)

    return Tensor(row.shape, "F32", read)


def without_extras(
    component: str, tensors: Mapping[str, Tensor], rows: Iterable[Row]
) -> tuple[dict[str, Tensor], list[str]]:
    """Leaves out weights beside those of a component.

    A weight is beside them if the first part of its key is none of theirs,
    or if it belongs to a layer of the text encoder after the last that is
    run. Any other surplus weight is kept, for `check_tensors` to refuse.

    Args:
        component: `"text_encoder"`, `"unet"` or `"vae"`.
        tensors: Dict of `Tensor` by diffusers' key.
        rows: The rows of the component.

    Returns:
        The tensors that are left, and notes for the user.
    """
    keys = {row.theirs for row in rows}
    firsts = {key.partition(".")[0] for key in keys}
    layers = "text_model.encoder.layers."
    depth = len({k.split(".")[3] for k in keys if k.startswith(layers)})
    kept, beside, late = {}, [], set()
    for key, tensor in tensors.items():
        number = key.removeprefix(layers).partition(".")[0]
        if key.partition(".")[0] not in firsts:
            beside.append(key)
        elif (
            key.startswith(layers)
            and number.isdecimal()
            and len(number) < 6
            and int(number) >= depth
        ):
            late.add(number)
        else:
            kept[key] = tensor
    notes = []
    if beside:
        what = f"weights beside the {component} were left out"
        notes.append(f"{listing(what, sorted(beside))}.")
    if late:
        notes.append(
            f"The {component} runs {depth} layers, as its configuration "
            f"declares; the {len(late)} after them were left out."
        )
    return kept, notes


def check_tensors(
    path: Any, component: str, tensors: dict[str, Tensor], rows: Iterable[Row]
) -> dict[str, Tensor]:
    """Compares a file's tensors with the rows of a component.

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
    wanted = {row.theirs: row for row in rows}
    pairs = [(wanted[key], t) for key, t in tensors.items() if key in wanted]
    faults = {
        "missing": [key for key in wanted if key not in tensors],
        "unexpected": sorted(set(tensors) - set(wanted)),
        "of another shape": [
            f"{row.theirs} {tensor.shape}, expected {row.shape}"
            for row, tensor in pairs
            if _sides(tensor.shape) != _sides(row.shape)
        ],
        f"of another dtype than {', '.join(NAMES)}": [
            f"{row.theirs} {tensor.dtype}"
            for row, tensor in pairs
            if tensor.dtype not in NAMES
        ],
    }
    problems = [listing(what, names) for what, names in faults.items() if names]
    if problems:
        raise ValueError(
            f"The weights of the {component} in {str(path)!r} do not fit: "
            f"{'; '.join(problems)}."
        )
    return {key: _shaped(tensors[key], row) for key, row in wanted.items()}


def listing(what: str, names: list[str]) -> str:
    """Returns a count, what is counted and the first five names."""
    more = ", ..." if len(names) > 5 else ""
    return f"{len(names)} {what} ({', '.join(names[:5])}{more})"


def _sides(shape: tuple[int, ...]) -> list[int]:
    """Returns a kernel's sides; a 1x1 convolution counts as a matrix."""
    if len(shape) == 4 and shape[2:] == (1, 1):
        return list(shape[:2])
    return list(shape)


def _shaped(tensor: Tensor, row: Row) -> Tensor:
    if tensor.shape == row.shape:
        return tensor
    return Tensor(
        row.shape, tensor.dtype, lambda: tensor.read().reshape(row.shape)
    )
