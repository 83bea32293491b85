"""What of a run is shared on the Hub: its weights, its card and its samples.

Files are named one by one, so that nothing else of a run can be among them.
"""

import fnmatch
from pathlib import Path
from typing import Any

from keras_sdft import hub
from keras_sdft.models.exported import METADATA_FILE
from keras_sdft.models.model_card import CARD_FILE
from keras_sdft.models.model_card import IMAGE_FILES
from keras_sdft.parsing import read_json

_PIPELINE = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*.json",
    "tokenizer/merges.txt",
    *(
        f"{part}/{name}"
        for part in ("text_encoder", "unet", "vae")
        for name in ("config.json", "*.safetensors", "*.safetensors.index.json")
    ),
)


def shared_files(path: str | Path) -> dict[str, Path]:
    """Returns what `push` uploads.

    Args:
        path: A run, an exported directory, a diffusers folder, or a
            `.safetensors` file.

    Returns:
        Dict of paths on this machine, by the path in the repository.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If it is none of these, or of no use on another machine.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        return {path.name: path}
    if not path.exists():
        raise FileNotFoundError(f"There is no run {str(path)!r}.")
    for folder in (path, path / "weights"):
        if (folder / METADATA_FILE).is_file():
            return _found(folder, _of_export(folder))
    if (path / "model_index.json").is_file():
        return _found(path, [*_PIPELINE, CARD_FILE, *IMAGE_FILES])
    raise ValueError(
        f"{str(path)!r} holds no weights to push. Expected a run that has "
        "written its weights, an exported directory, a diffusers folder or a "
        ".safetensors file."
    )


def _of_export(folder: Path) -> list[str]:
    metadata = read_json(folder / METADATA_FILE)
    names = [*metadata["files"].values(), *metadata.get("extra_files", ())]
    names += [CARD_FILE, *IMAGE_FILES]
    here = [
        metadata[field]
        for field in ("origin", "vae")
        if metadata.get(field) and not hub.is_address(metadata[field])
    ]
    if not here:
        return [METADATA_FILE, *names]
    if metadata["files"]:
        raise ValueError(
            f"The weights in {str(folder)!r} build upon {here[0]!r}, which "
            "nobody else has. Write a whole model, and push that: `keras-sdft "
            f"convert --model {folder} --output MODEL --format diffusers`, "
            "then `keras-sdft push MODEL hf://owner/name`."
        )
    # An adapter is a file that every tool reads; this one names a path.
    return names


def _found(folder: Path, patterns: list[str]) -> dict[str, Path]:
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*")]
    return {
        name: folder / name
        for name in sorted(names)
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        and name.count("/") <= 1
        and (folder / name).is_file()
    }


def push(path: str | Path, address: str, private: bool = False) -> Any:
    """Uploads the weights, the model card and the sample images of a run.

    All in one commit. What is in the repository already and has another name
    stays there.

    Args:
        path: See `shared_files`.
        address: String, `"hf://owner/name"`; a repository that does not
            exist is made.
        private: Boolean, whether only its owner can see it.

    Returns:
        The address of the commit, a string.

    Raises:
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If it does not let this user write there.
        ValueError: If the address is malformed, or the repository is public
            and `private` is asked for.
    """
    return hub.upload(shared_files(path), address, private)
