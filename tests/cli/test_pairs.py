"""Every pair of options trains for two steps, or is refused by name.

Options that belong together are one choice of a factor. Rows of choices are
made so that each two choices of different factors meet in one row; a row is
one run of the command on the smallest networks. All rows take minutes and
are slow tests (`make test-slow`); some of them are not.
"""

import csv
import dataclasses
import itertools
import json
import random
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_sdft.cli import main
from keras_sdft.cli.command_line import COMMANDS as ALL
from tests.formats.reference import GOLDEN

CAPTION = "hello; <w> world"

OPTIMIZATION = {
    "optimizer": [
        "--optimizer adamw --adam_beta1 0.8 --adam_beta2 0.9 "
        "--adam_epsilon 1e-6",
        "--optimizer adafactor",
        "--optimizer lion --weight_decay 0.1",
        "--optimizer muon",
        "--optimizer schedule_free_adamw",
    ],
    "schedule": [
        "",
        "--lr_scheduler linear --lr_warmup_steps 1",
        "--lr_scheduler cosine",
        "--lr_scheduler cosine_with_restarts --lr_num_cycles 2",
        "--lr_scheduler polynomial --lr_power 2 --lr_end 1e-8",
    ],
    "precision": ["", "--mixed_precision bf16", "--mixed_precision fp16"],
    "learning": [
        "",
        "--train_text_encoder",
        "--train_text_encoder --text_encoder_learning_rate 1e-6 "
        "--text_encoder_stop_step 1",
        "--lora_rank 2",
        "--lora_rank 2 --lora_alpha 1 --lora_targets all --lora_dropout 0.1 "
        "--lora_text_encoder --dora --frozen_dtype int8",
    ],
    "parts": ["", "--gradient_accumulation_steps 2"],
    "average": ["", "--ema_decay 0.9"],
    "remat": ["", "--remat"],
    "loss": ["", "--loss huber --huber_delta 0.2"],
    "weighting": [
        "",
        "--weighting min_snr --snr_gamma 4",
        "--weighting p2 --p2_gamma 0.5",
        "--weighting debiased",
    ],
    "noise": [
        "",
        "--offset_noise 0.1 --multires_noise_iterations 2 "
        "--multires_noise_discount 0.5",
        "--input_perturbation 0.1",
    ],
    "timesteps": [
        "",
        "--timestep_range 0 500",
        "--timestep_bias_strategy earlier --timestep_bias_multiplier 2 "
        "--timestep_bias_portion 0.5",
        "--timestep_bias_strategy range --timestep_bias_multiplier 2 "
        "--timestep_bias_begin 100 --timestep_bias_end 300",
    ],
    "prediction": [
        "",
        "--prediction_type v_prediction --change_prediction_type "
        "--zero_terminal_snr",
    ],
    "images": ["", "--crop random --horizontal_flip"],
    "buckets": [
        "",
        "--buckets --bucket_step 64 --bucket_min_side 64 "
        "--bucket_max_side 128 --bucket_max_aspect_ratio 2",
    ],
    "masks": ["", "--masks alpha", "--masks files"],
    "repeats": ["", "--repeats 2"],
    "autoencoder": ["", "--vae {vae}"],
    "xla": ["", "--jit_compile"],
    "clip_skip": ["", "--clip_skip 2"],
    "norm": ["", "--max_grad_norm null"],
    "batch": ["--batch_size 1", "--batch_size 2", "--batch_size 3"],
    "length": ["--max_train_steps 2", "--num_train_epochs 2"],
    "written": [
        "",
        "--save_every_steps 1 --log_every_steps 1",
        # The run is then resumed as well.
        "--checkpoint_every_steps 1 --keep_checkpoints 1 "
        "--checkpoint_every_minutes 1 --seed 2",
        "--preview_prompts hello --preview_every_steps 2 "
        "--preview_num_steps 1 --preview_guidance_scale 2",
    ],
}
TRAIN = {
    **OPTIMIZATION,
    "source": [
        "--data {photos} --reader caption_files",
        "--data {tables}/photos.csv --image_column picture "
        "--caption_column words --max_unreadable 0.5",
        "--data {splits} --split train --reader metadata_jsonl",
    ],
    "cache": [
        "--no_cache",
        "--cache {tmp}/cache",
        "--cache {tmp}/cache --cache_dtype float32",
    ],
    "captions": [
        "--caption_dropout 0.5",
        "--shuffle_tags --keep_tokens 1 --tag_separator ;",
        "--caption_template 'one {{caption}}'",
        "--caption 'hello'",
    ],
    "word": ["", "--new_token <w> --init_word hello --num_vectors 2"],
    "validation": [
        "",
        "--validation_data {held_out} --validation_every_epochs 1 "
        "--keep_best val_loss",
    ],
}
DREAMBOOTH = {
    **OPTIMIZATION,
    "subject": [
        "--instance_data_dir {photos} --instance_prompt 'sks hello'",
        "--instance_data_dir {photos} --instance_prompt 'sks hello' "
        "--token sks --class_noun hello --max_unreadable 0.5",
    ],
    "captions": ["", "--caption_dropout 0.5"],
    "prior": [
        "",
        "--class_prompt 'hello' --class_data_dir {tmp}/class "
        "--num_class_images 2 --class_num_steps 1 --sample_batch_size 2 "
        "--class_guidance_scale 2 --prior_loss_weight 0.5",
        "--class_prompt 'hello' --prior_preservation base",
    ],
    "validation": [
        "",
        "--validation_data_dir {held_out} --validation_every_steps 1",
    ],
}


# Pairs that are refused, by a word of each choice; see
# `test_a_pair_that_is_refused_names_an_option`.
REFUSED = [
    ("--weighting min_snr", "--zero_terminal_snr"),
    ("--weighting debiased", "--zero_terminal_snr"),
    ("--weighting p2", "--zero_terminal_snr"),
    ("--optimizer schedule_free_adamw", "--lr_scheduler"),
    ("--optimizer schedule_free_adamw", "--ema_decay"),
    ("--cache", "--crop random"),
    ("--cache", "--shuffle_tags"),
    ("--new_token", "--caption 'hello'"),
    ("--prior_preservation base", "--train_text_encoder"),
]


def is_refused(factors, pair):
    """Returns whether two choices contradict each other."""
    (a, i), (b, j) = pair
    one, other = factors[a][i], factors[b][j]
    if "--prior_preservation base" in (one, other)[one.count("prior") == 0]:
        # Only adapters leave a base to compare with.
        learning = other if a == "prior" else one
        if "learning" in (a, b) and "--lora" not in learning:
            return True
    return any(
        (x in one and y in other) or (y in one and x in other)
        for x, y in REFUSED
    )


def rows_of(factors):
    """Returns rows of choices in which every pair of choices meets.

    Pairs that are refused meet in no row, so that a row trains.
    """
    names = list(factors)
    chance = random.Random(0)
    missing = {
        frozenset([(a, i), (b, j)])
        for a, b in itertools.combinations(names, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
        if not is_refused(factors, ((a, i), (b, j)))
    }
    rows = []
    while missing:
        row = dict(min(missing, key=lambda pair: sorted(pair)))
        for name in chance.sample(names, len(names)):
            if name not in row:
                fitting = [
                    i
                    for i in range(len(factors[name]))
                    if not any(
                        is_refused(factors, ((name, i), other))
                        for other in row.items()
                    )
                ]
                row[name] = max(
                    fitting,
                    key=lambda i: sum(
                        frozenset([(name, i), other]) in missing
                        for other in row.items()
                    ),
                )
        rows.append({name: row[name] for name in names})
        missing -= {
            frozenset(pair) for pair in itertools.combinations(row.items(), 2)
        }
    return rows


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Photos with alpha, captions and masks, each source with the same."""
    result = {"vae": GOLDEN / "sd1"}
    for number, name in enumerate(("photos", "held_out")):
        folder = result[name] = tmp_path_factory.mktemp(name)
        generator = np.random.default_rng(number)
        for index, size in enumerate([(64, 64), (64, 128), (90, 70)]):
            pixels = generator.integers(0, 256, (*size, 4), dtype="uint8")
            Image.fromarray(pixels).save(folder / f"{index}.png")
            mask = Image.fromarray(pixels[..., 0])
            mask.save(folder / f"{index}-masklabel.png")
            (folder / f"{index}.txt").write_text(CAPTION)
    photos = sorted(result["photos"].glob("?.png"))
    result["tables"] = tmp_path_factory.mktemp("tables")
    with open(result["tables"] / "photos.csv", "w") as file:
        table = csv.writer(file)
        table.writerow(["picture", "words", "mask_file_name"])
        table.writerows([p.name, CAPTION, masklabel(p).name] for p in photos)
    for path in result["photos"].glob("*.png"):
        shutil.copy(path, result["tables"])
    result["splits"] = tmp_path_factory.mktemp("splits")
    train = result["splits"] / "train"
    train.mkdir()
    rows = [
        {
            "file_name": path.name,
            "text": CAPTION,
            "mask_file_name": masklabel(path).name,
        }
        for path in photos
    ]
    (train / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for path in result["photos"].glob("*.png"):
        shutil.copy(path, train)
    return result


def masklabel(path):
    return path.with_name(f"{path.stem}-masklabel.png")


def run(command, factors, row, folders, tmp_path, capsys):
    chosen = [factors[name][index] for name, index in row.items()]
    text = " ".join(chosen).format(tmp=tmp_path, **folders)
    arguments = [
        *(command, "--model", str(GOLDEN / "sd1"), "--resolution", "64"),
        *("--output_dir", str(tmp_path / "run"), "--learning_rate", "1e-4"),
        *shlex.split(text),
    ]
    code = main(arguments)
    told = capsys.readouterr()
    if code == 0:
        assert "Done: loss" in told.out
        if "--checkpoint_every_steps" in text:
            assert main([command, "--resume", str(tmp_path / "run")]) == 0
            assert "Done: loss" in capsys.readouterr().out
        return "trained"
    assert code == 2, told.err
    flags = re.findall(r"--(\w+)", text)
    named = [f for f in flags if f in told.err]
    assert named, f"{shlex.join(arguments)}\n{told.err}"
    return told.err


COMMANDS = {"train": TRAIN, "dreambooth": DREAMBOOTH}
ROWS = [
    pytest.param(
        command,
        row,
        id=f"{command}-{number}",
        # Some in every run, spread over the rows.
        marks=() if number == 6 else pytest.mark.slow,
    )
    for command, factors in COMMANDS.items()
    for number, row in enumerate(rows_of(factors))
]


@pytest.mark.parametrize(("command", "row"), ROWS)
def test_a_row_trains_or_is_refused_by_name(
    command, row, folders, tmp_path, capsys
):
    run(command, COMMANDS[command], row, folders, tmp_path, capsys)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("train", "--weighting min_snr --prediction_type v_prediction "
         "--change_prediction_type --zero_terminal_snr"),
        ("train", "--optimizer schedule_free_adamw --lr_scheduler linear"),
        ("train", "--optimizer schedule_free_adamw --ema_decay 0.9"),
        ("train", "--cache {tmp}/cache --crop random"),
        ("train", "--cache {tmp}/cache --shuffle_tags"),
        ("train", "--new_token <w> --caption hello"),
        ("dreambooth", "--class_prompt hello --prior_preservation base"),
    ],
)  # fmt: skip
def test_a_pair_that_is_refused_names_an_option(
    command, text, folders, tmp_path, capsys
):
    source = {"train": TRAIN["source"], "dreambooth": DREAMBOOTH["subject"]}
    factors = {
        "source": source[command],
        "length": ["--max_train_steps 2"],
        "pair": [text],
    }
    row = dict.fromkeys(factors, 0)
    found = run(command, factors, row, folders, tmp_path, capsys)
    assert found != "trained"


def test_every_pair_is_in_a_row_and_every_option_in_a_factor():
    for command, factors in COMMANDS.items():
        rows = rows_of(factors)
        for a, b in itertools.combinations(factors, 2):
            met = {(row[a], row[b]) for row in rows}
            wanted = {
                (i, j)
                for i in range(len(factors[a]))
                for j in range(len(factors[b]))
                if not is_refused(factors, ((a, i), (b, j)))
            }
            assert met == wanted, (a, b)
        used = set(re.findall(r"--(\w+)", str(factors)))
        fields = {
            field.name
            for group in ALL[command].groups
            for field in dataclasses.fields(group)
        }
        # In every row, or of no effect on what is trained.
        others = {
            *("model", "output_dir", "resolution", "learning_rate"),
            *("mask_column", "weights_directory", "overwrite", "resume"),
            *("check_memory", "license", "strategy"),
        }
        left = fields - used - others - {"new_token", "init_word"}
        left -= {"num_vectors"} if command == "dreambooth" else set()
        left -= {"keep_best"}
        assert not left, (command, left)
