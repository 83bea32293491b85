"""What is fuzzed: small valid inputs of every kind, and their readers.

Each kind has files that are damaged and a function that reads them as the
commands do, short of building networks.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import _fuzz_mutations as mutations

GOLDEN = Path(__file__).parent.parent / "tests" / "formats" / "golden" / "sd1"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        name: For the table.
        make: Function that writes a valid input into an empty directory.
        files: Dict of how each damaged file is damaged, beside its bytes:
            `"json"`, `"yaml"`, `"text"`, `"safetensors"`, `"png"`, `"gzip"`
            or `""`.
        read: Function of the directory.
        names_file: Whether errors must name the file; the callers of some
            readers do it.
    """

    name: str
    make: Callable[[Path], None]
    files: dict[str, str]
    read: Callable[[Path], object]
    names_file: bool = True


def _image(path: Path, **options) -> None:
    pixels = np.arange(48 * 40 * 3, dtype="uint8").reshape(48, 40, 3)
    Image.fromarray(pixels).save(path, **options)


# === Data ===


def _make_images(path: Path) -> None:
    for ending in ("png", "jpg", "webp"):
        _image(path / f"a.{ending}")


def _read_image(path: Path) -> None:
    from keras_sdft.data import images

    for file in sorted(path.iterdir()):
        images.image_size(str(file))
        images.has_alpha(str(file))
        images.read_image(str(file), (64, 64))


def _make_table(path: Path) -> None:
    for name in "abc":
        _image(path / f"{name}.png")
    rows = [("a.png", "a heart"), ("b.png", 'a "red" moon'), ("c.png", "x, y")]
    lines = ["file_name,text", "a.png,a heart", 'b.png,"a ""red"", moon"']
    (path / "rows.csv").write_text("\n".join([*lines, "c.png,a cat\n"]))
    text = [json.dumps({"file_name": n, "text": [t, "b"]}) for n, t in rows]
    (path / "rows.jsonl").write_text("\n".join(text) + "\n")


def _read_table(path: Path) -> None:
    from keras_sdft.data.sources.reading import read_examples

    for ending in ("csv", "jsonl"):
        if not (path / f"rows.{ending}").is_symlink():
            read_examples(str(path / f"rows.{ending}"))


def _make_parquet(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    _image(path / "a.png")
    image = {"bytes": (path / "a.png").read_bytes(), "path": "a.png"}
    (path / "a.png").unlink()
    columns = {"image": [image] * 3, "text": ["a heart", "a moon", "x, y"]}
    table = pyarrow.table(columns)
    parquet.write_table(table, path / "a.parquet", row_group_size=2)


def _read_parquet(path: Path) -> None:
    from keras_sdft.data.sources import parquet
    from keras_sdft.data.sources.reading import read_examples

    parquet.FOLDER = str(path / "unpacked")
    read_examples(str(path / "a.parquet"))


def _make_folder(path: Path) -> None:
    for name in "abc":
        _image(path / f"{name}.png")
        (path / f"{name}.txt").write_text(f"a drawing of {name}\nanother\n")


def _read_folder(path: Path) -> None:
    from keras_sdft.data.sources.reading import read_examples

    read_examples(str(path))


def _make_tfrecord(path: Path) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path / "a.tfrecord")) as writer:
        for size in (5, 90, 17):
            writer.write(bytes(range(size)))


class _Features:
    def deserialize_example_np(self, data, decoders):
        return {"record": data}


def _read_tfrecord(path: Path) -> None:
    from keras_sdft.data.sources import tfds

    file = str(path / "a.tfrecord")
    offsets = tfds.index_tfrecord(file)
    file_of = np.zeros(len(offsets), int)
    records = tfds.TfRecords([file], file_of, offsets, _Features(), {})
    for number in range(len(records)):
        records[number]


def _make_record(path: Path) -> None:
    from keras_sdft.data.sources import dreambooth

    for seed in range(3):
        name = f"seed-{seed:010d}.png"
        _image(path / name)
        dreambooth.add_to_record(
            str(path),
            {"file_name": name, "text": "a dog", "seed": seed},
        )


def _read_record(path: Path) -> None:
    from keras_sdft.runs import ClassImageOptions

    options = ClassImageOptions(num_class_images=4)
    options.missing("a dog", str(path), (64, 64))


# === Models ===


def _copy(names: tuple[str, ...]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        for name in names:
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((GOLDEN / name).read_bytes())

    return make


_CONFIGS = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
)
_WEIGHTS = (
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)


def _read_pipeline(path: Path) -> None:
    from keras_sdft import formats

    formats.load(path).make_tokenizer(77, "end")


def _read_components(path: Path) -> None:
    from keras_sdft import formats

    checkpoint = formats.load(path)
    for tensors in checkpoint.components.values():
        for tensor in list(tensors.values())[:3]:
            tensor.read()


def _make_single(path: Path) -> None:
    from keras_sdft import formats

    formats.convert(GOLDEN, path / "single.safetensors", "ldm")


def _read_single(path: Path) -> None:
    from keras_sdft import models

    models.describe(path / "single.safetensors", True)


def _make_export(path: Path) -> None:
    from keras_sdft.models import PRESETS

    spec = PRESETS["tiny"].spec
    files = {"diffusion_model": "diffusion_model.weights.h5"}
    _write_h5(path / files["diffusion_model"])
    (path / "keras_sdft.json").write_text(
        json.dumps(
            {
                "format_version": 1,
                "keras_sdft_version": "0",
                "base": "tiny",
                "origin": None,
                "spec": spec.to_dict(),
                "prediction_type": spec.prediction_type,
                "files": files,
                "trained_parts": ["diffusion_model"],
                "steps": 3,
            }
        )
    )


def _write_h5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for layer in range(3):
            group = file.create_group(f"layers/dense_{layer}/vars")
            group.create_dataset("0", data=np.ones((3, 4), "float32"))
            group.create_dataset("1", data=np.ones(4, "float32"))
        file.attrs["keras_version"] = "3"


def _read_export(path: Path) -> None:
    from keras_sdft import models

    models.describe(path, True)


@functools.cache
def _network():
    import keras

    layers = [keras.layers.Dense(4) for _ in range(2)]
    return keras.Sequential([keras.Input((3,)), *layers])


def _make_h5(path: Path) -> None:
    _network().save_weights(path / "a.weights.h5")


def _read_h5(path: Path) -> None:
    from keras_sdft.models import weight_files

    file = path / "a.weights.h5"
    weight_files.check_weights(file)
    weight_files.load_weights(_network(), file)


def _make_merges(path: Path) -> None:
    from keras_sdft.models import PRESETS

    text = gzip.decompress(PRESETS["tiny"].merges.read_bytes())
    lines = text.split(b"\n")[:200]
    (path / "merges.txt.gz").write_bytes(gzip.compress(b"\n".join(lines)))


def _read_merges(path: Path) -> None:
    from keras_sdft.models import Tokenizer

    Tokenizer(path / "merges.txt.gz").encode("a red heart")


def _make_adapters(path: Path) -> None:
    from keras_sdft.formats import safetensors_files

    for source in sorted((GOLDEN / "lora").glob("*.safetensors"))[:1]:
        (path / "lora.safetensors").write_bytes(source.read_bytes())
    array = np.ones((2, 32), "float32")
    tensor = safetensors_files.Tensor((2, 32), "F32", lambda: array)
    safetensors_files.write(path / "token.safetensors", {"<cat>": tensor})


def _read_adapters(path: Path) -> None:
    from keras_sdft import formats
    from keras_sdft.formats import embedding_files
    from keras_sdft.formats import lora_files

    if not (path / "token.safetensors").is_symlink():
        embedding_files.read(path / "token.safetensors")
    if not (path / "lora.safetensors").is_symlink():
        lora_files.describe(path / "lora.safetensors")
        lora_files.read(path / "lora.safetensors", formats.load(GOLDEN).spec)


# === Runs ===


def _make_run(path: Path) -> None:
    from keras_sdft.runs import record

    record.write_record(
        path, record.RunRecord(command="train", state="finished")
    )


def _read_run(path: Path) -> None:
    from keras_sdft.runs import record

    found = record.read_record(path)
    if found is not None:
        found.described()


def _make_cache(path: Path) -> None:
    from keras_sdft.encoding import store

    fields = {"rows": {"a": 3}, "complete": True}
    store.State({"images": 3}, "float32", False, True, **fields).write(
        str(path)
    )
    writer = store.RowWriter(str(path), _store(), 0)
    writer.write({"values": np.ones((3, 2, 3), "float32")})
    writer.flush()


def _store():
    from keras_sdft.encoding import store

    return store.Store("a", 3, (("values", "float32", (2, 3)),))


def _read_cache(path: Path) -> None:
    from keras_sdft.encoding import store

    store.read_state(str(path))
    rows = store.Rows(str(path), _store(), 3)
    for row in range(3):
        rows[row]


def _make_checkpoint(path: Path) -> None:
    from keras_sdft.training import checkpoint_files

    array = np.ones((2, 3), "float32")
    sources = {"a": (array.shape, array.dtype, lambda: array)}
    checkpoint_files.write(path / "step-3", sources, {"step": 3, "seed": 0})


def _read_checkpoint(path: Path) -> None:
    from keras_sdft.training import checkpoint_files

    checkpoint_files.check_whole(path / "step-3")
    for array in checkpoint_files.read_tensors(path / "step-3").values():
        array.sum()


def _make_config(path: Path) -> None:
    (path / "config.yaml").write_text(
        "model: tiny\ndata: photos\noutput_dir: run\nlearning_rate: 1e-5\n"
        "max_train_steps: 10\nhorizontal_flip: true\nloss: huber\n"
        "optimizer: adamw\nvalidation_data: null\n"
        "timestep_range: [0, 900]\nseed: 3\n"
    )


def _read_config(path: Path) -> None:
    from keras_sdft.cli.command_line import parse

    parse(["train", "--config", str(path / "config.yaml")])


KINDS = (
    Kind(
        "images",
        _make_images,
        {"a.png": "png", "a.jpg": "", "a.webp": ""},
        _read_image,
        names_file=False,
    ),
    Kind(
        "tables",
        _make_table,
        {"rows.csv": "text", "rows.jsonl": "lines"},
        _read_table,
    ),
    Kind("parquet", _make_parquet, {"a.parquet": ""}, _read_parquet),
    Kind("captions", _make_folder, {"a.txt": "text"}, _read_folder),
    Kind("TFRecord", _make_tfrecord, {"a.tfrecord": ""}, _read_tfrecord),
    Kind(
        "class images",
        _make_record,
        {"class_images.jsonl": "lines"},
        _read_record,
    ),
    Kind(
        "pipeline, JSON",
        _copy(_CONFIGS + _WEIGHTS),
        {n: "json" if n.endswith("json") else "text" for n in _CONFIGS},
        _read_pipeline,
    ),
    Kind(
        "pipeline, weights",
        _copy(_CONFIGS + _WEIGHTS),
        dict.fromkeys(_WEIGHTS, "safetensors"),
        _read_components,
    ),
    Kind(
        "single file",
        _make_single,
        {"single.safetensors": "safetensors"},
        _read_single,
    ),
    Kind("export", _make_export, {"keras_sdft.json": "json"}, _read_export),
    Kind("Keras weights", _make_h5, {"a.weights.h5": ""}, _read_h5),
    Kind("vocabulary", _make_merges, {"merges.txt.gz": "gzip"}, _read_merges),
    Kind(
        "LoRA, embedding",
        _make_adapters,
        {
            "lora.safetensors": "safetensors",
            "token.safetensors": "safetensors",
        },
        _read_adapters,
    ),
    Kind("run.json", _make_run, {"run.json": "json"}, _read_run),
    Kind(
        "cache",
        _make_cache,
        {"cache.json": "json", "a.rows": ""},
        _read_cache,
    ),
    Kind(
        "checkpoint",
        _make_checkpoint,
        {
            "step-3/checkpoint.json": "json",
            "step-3/state.safetensors": "safetensors",
        },
        _read_checkpoint,
    ),
    Kind(
        "config.yaml",
        _make_config,
        {"config.yaml": "yaml"},
        _read_config,
        # A wrong value is named by its flag.
        names_file=False,
    ),
)


def damage(random, how: str, data: bytes, other: bytes) -> bytes:
    """Returns a damaged copy of a file.

    Args:
        random: A NumPy generator.
        how: As `Kind.files` has it.
        data: The valid file.
        other: A valid file of another kind.
    """
    if random.random() < 0.02:
        return (b"", other, bytes(1000))[int(random.integers(3))]
    if not how or random.random() < 0.4:
        return mutations.damage_bytes(random, data, other)
    if how == "lines":
        lines = data.split(b"\n")
        if random.random() < 0.3:
            return mutations.damage_text(random, data.decode())
        place = int(random.integers(len(lines) - 1))
        lines[place] = mutations.damage_json(random, lines[place].decode())
        return b"\n".join(lines)
    function = getattr(mutations, f"damage_{how}")
    is_text = how in ("json", "yaml", "text")
    return function(random, data.decode() if is_text else data)
