"""DreamBooth's folders: what is wrong with them, and what is recorded there.

Must not know pixels, TensorFlow, or how a class image is generated. Photos are
never changed; beside class images is a record of how they were generated.
"""

import json
import logging
import os
from typing import Any

from keras_sdft import hub
from keras_sdft.data.report import shared_files
from keras_sdft.data.sources.filenames import is_photo
from keras_sdft.data.sources.filenames import walk
from keras_sdft.data.sources.folders import images_of
from keras_sdft.reprs import first_five

logger = logging.getLogger(__name__)

# More photos than this are more likely a data set of captioned images.
MANY_PHOTOS = 200
# More than this are nothing else: one caption would be all it has.
MOST_PHOTOS = 1000
# From so many photos on, fewer class images than photos look swapped.
_MANY_FOR_A_SUBJECT = 50
# So many photos are compared with class images by their bytes.
COMPARE_LIMIT = 1000

# Beside the images: one line for each that was generated, with its seed.
RECORD = "class_images.jsonl"


def check_dreambooth_folders(
    instance_data_dir: str | os.PathLike,
    class_data_dir: str | os.PathLike | None = None,
    class_prompt: str | None = None,
    num_class_images: int | None = None,
) -> tuple[int, int]:
    """Looks at the folders of photos and of class images.

    Args:
        instance_data_dir: Folder of photos of the subject, or an address
            on the Hub.
        class_data_dir: Folder of images of its class.
        class_prompt: String, the class prompt; without one the class folder is
            not looked at.
        num_class_images: Integer, how many class images there will be. Then
            the class folder may hold fewer yet, or not exist. `None` (the
            default) is those that are there.

    Returns:
        `(photos, class images)` that are there.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If one holds no image or too many, or if the two overlap or
            look swapped.
    """
    instance = os.fspath(hub.local(instance_data_dir, "data"))
    photos = _photos("instance_data_dir", instance)
    others, class_images = os.fspath(class_data_dir or ""), []
    if class_prompt is None:
        if others:
            logger.warning(
                "`class_data_dir` is not used: without a `class_prompt` there "
                "is no prior preservation."
            )
    elif not others:
        raise ValueError(
            "`class_prompt` asks for prior preservation, which needs "
            "`class_data_dir`, the folder of class images. Name the folder, "
            "or leave `class_prompt` out. Received: "
            f"class_prompt={class_prompt!r}."
        )
    else:
        _refuse_nested(instance, others)
        if os.path.isdir(others) or num_class_images is None:
            class_images = _photos("class_data_dir", others, num_class_images)
        _refuse_shared(instance, photos, others, class_images)
        _refuse_swapped(instance, photos, others, class_images)
    _check_count(instance, len(photos))
    return len(photos), len(class_images)


def _photos(
    argument: str, folder: str, to_come: int | None = None
) -> list[str]:
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"`{argument}` must be a folder of images. Received: {folder!r}, "
            "which does not exist or is no folder."
        )
    files = walk(folder)
    if to_come:
        return [path for path in files if is_photo(path)]
    remedy = "Put 3 to 30 photos of the subject there."
    if argument == "class_data_dir":
        remedy = "Generate class images first, or leave `class_prompt` out."
    return images_of(f"`{argument}`", folder, files, remedy)


def _check_count(folder: str, count: int) -> None:
    many = (
        f"{count} photos in {folder!r}, and all get the same caption. "
        "DreamBooth is made for 3 to 30 photos of one subject; a data set of "
        "captioned images is for `keras_sdft.data.load` or `keras-sdft train`."
    )
    if count > MOST_PHOTOS:
        raise ValueError(
            f"`instance_data_dir` must hold at most {MOST_PHOTOS} photos of "
            f"one subject. Received: {many}"
        )
    if count > MANY_PHOTOS:
        logger.warning("There are %s", many)
    if count == 1:
        logger.warning(
            "%s holds one photo. The subject will be learned with its "
            "background and pose; 3 to 30 photos in several places are usual.",
            folder,
        )


def _refuse_nested(instance: str, others: str) -> None:
    first, second = os.path.realpath(instance), os.path.realpath(others)
    if os.path.exists(second) and os.path.samefile(first, second):
        second = first
    outer = os.path.commonpath([first, second])
    if outer not in (first, second):
        return
    problem = (
        "They are the same."
        if first == second
        else "One is inside the other, so its images would belong to both. "
        "Move one of them out."
    )
    raise ValueError(
        "`instance_data_dir` and `class_data_dir` must be two folders beside "
        "each other: the subject's own photos, and images of its class. "
        f"Received: instance_data_dir={instance!r} and "
        f"class_data_dir={others!r}. {problem}"
    )


def _refuse_shared(
    instance: str, photos: list[str], others: str, class_images: list[str]
) -> None:
    mine = photos[:COMPARE_LIMIT]
    theirs = class_images[: 10 * COMPARE_LIMIT]
    shared = shared_files(
        [os.path.join(instance, name) for name in mine],
        [os.path.join(others, name) for name in theirs],
    )
    if shared:
        pairs = first_five(f"{one} = {other}" for one, other in shared)
        raise ValueError(
            "`instance_data_dir` and `class_data_dir` must share no image: "
            "the class images say what the subject is not. Received "
            f"{len(shared)} photos that are in both: {pairs}. Remove them "
            "from one of the two."
        )


def _refuse_swapped(
    instance: str, photos: list[str], others: str, class_images: list[str]
) -> None:
    generated = sorted(set(photos) & set(read_record(instance)))
    if generated:
        raise ValueError(
            "`instance_data_dir` holds images that were generated as class "
            f"images: {first_five(generated)} in {instance!r}. Are "
            "`instance_data_dir` and `class_data_dir` swapped? Received: "
            f"class_data_dir={others!r}. Swap them, or move these images out."
        )
    given = set(class_images) - set(read_record(others))
    if len(photos) > _MANY_FOR_A_SUBJECT and 0 < len(given) < len(photos):
        raise ValueError(
            "`instance_data_dir` and `class_data_dir` look swapped: 3 to 30 "
            "photos of the subject and 100 to 300 images of its class are "
            f"usual. Received: {len(photos)} photos in {instance!r} and "
            f"{len(class_images)} class images in {others!r}. Swap the two; "
            "if they are as they should be, put at least as many class "
            "images there as photos, or name a new folder for them."
        )


def read_record(directory: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Returns what is recorded of each class image, by its file name."""
    path = os.path.join(directory, RECORD)
    if not os.path.isfile(path):
        return {}
    rows = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
                rows[row["file_name"]] = row
            # The end of a line may be lost where a machine was stopped.
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
    return rows


def add_to_record(directory: str | os.PathLike, row: dict[str, Any]) -> None:
    """Writes what an image is made from as a line of the record.

    Args:
        directory: Folder of class images, which exists.
        row: Dict with `file_name`, `text`, `seed` and what else is known.
    """
    line = json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"
    with open(os.path.join(directory, RECORD), "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            # A line that was cut short shall not swallow this one.
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
