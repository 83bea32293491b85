"""Options of the two training commands, as short as they may be."""

from keras_sdft.cli import dreambooth
from keras_sdft.cli import train


def options_of(**changes):
    given = {
        "model": "tiny",
        "data": "photos",
        "output_dir": "run",
        "max_train_steps": 12,
    }
    return train.COMMAND.options(**given | changes)


def subject_of(**changes):
    given = {
        "model": "tiny",
        "instance_data_dir": "photos",
        "instance_prompt": "a photo of sks dog",
        "output_dir": "run",
        "max_train_steps": 12,
    }
    return dreambooth.COMMAND.options(**given | changes)
