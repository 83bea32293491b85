import pytest

from keras_sdft.cli import train
from keras_sdft.cli.command_line import parse

TRAIN = ["train", "--model=tiny", "--data=photos", "--output_dir=run"]
DREAMBOOTH = [
    "dreambooth",
    "--model=tiny",
    "--instance_data_dir=photos",
    "--instance_prompt=a photo of sks dog",
    "--output_dir=run",
]


def read(*arguments):
    return parse(list(arguments))[1]


def test_dropout_is_for_full_fine_tunes():
    assert read(*TRAIN).caption_dropout == 0.1
    assert read(*DREAMBOOTH).caption_dropout == 0.0
    assert read(*TRAIN, "--caption_dropout=0").caption_dropout == 0.0


def test_defaults_of_dreambooth():
    options = read(*DREAMBOOTH)
    assert options.batch_size == 1
    assert options.num_class_images == 200
    assert options.prior_loss_weight == 1.0
    assert options.learning_rate == 1e-6
    assert options.class_prompt is None


def test_the_usual_command_is_understood():
    command = (
        "dreambooth --model MODEL --instance_data_dir photos/ "
        "--class_data_dir class/ --num_class_images 200 "
        "--prior_loss_weight 1.0 --max_train_steps 2400 "
        "--gradient_accumulation_steps 2 --learning_rate 1e-6 "
        "--output_dir RUN"
    ).split()
    command += ["--instance_prompt", "a photo of sks dog"]
    options = read(*command, "--class_prompt", "a photo of dog")
    assert options.model == "MODEL"
    assert options.instance_data_dir == "photos/"
    assert options.class_data_dir == "class/"
    assert options.class_prompt == "a photo of dog"
    assert options.max_train_steps == 2400
    assert options.gradient_accumulation_steps == 2


def test_class_has_its_short_name():
    assert read(*DREAMBOOTH, "--class=dog").class_noun == "dog"
    assert read(*DREAMBOOTH, "--class", "dog").class_noun == "dog"
    assert read(*DREAMBOOTH, "--class_noun=dog").class_noun == "dog"


def test_a_range_is_two_numbers():
    options = read(*TRAIN, "--timestep_range", "0", "500", "--seed=3")
    assert options.timestep_range == [0, 500]
    assert options.seed == 3


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ([], None),
        (["--zero_terminal_snr"], True),
        (["--zero_terminal_snr=false"], False),
        (["--zero_terminal_snr=null"], None),
    ],
)
def test_a_switch_may_have_no_say(arguments, value):
    assert read(*TRAIN, *arguments).zero_terminal_snr is value


def test_repeats_are_a_number_or_a_column():
    assert read(*TRAIN, "--repeats=3").repeats == 3
    assert read(*TRAIN, "--repeats=times").repeats == "times"


def test_a_config_of_an_earlier_version(tmp_path):
    """As version 0.1 wrote it: without any of the later flags."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: tiny\ndata: photos\noutput_dir: run\nresolution: null\n"
        "batch_size: 4\ngradient_accumulation_steps: 1\n"
        "max_train_steps: 100\nnum_train_epochs: null\n"
        "learning_rate: 0.0001\nweight_decay: 0.01\nadam_beta1: 0.9\n"
        "adam_beta2: 0.999\nadam_epsilon: 1.0e-08\nmax_grad_norm: 1.0\n"
        "mixed_precision: 'no'\njit_compile: false\nema_decay: null\n"
        "weighting: constant\noffset_noise: 0.0\nprediction_type: null\n"
        "seed: 0\nimage_column: null\ncaption_column: text\nsplit: null\n"
        "caption_template: null\ncaption_dropout: 0.0\ncrop: center\n"
        "horizontal_flip: false\nmax_unreadable: 0.1\n"
        "validation_data: null\nvalidation_every_epochs: 1\n"
        "preview_prompts: null\npreview_every_steps: 500\n"
        "preview_num_steps: 25\npreview_guidance_scale: 7.5\n"
        "save_every_steps: null\nlog_every_steps: 10\n"
        "weights_directory: null\noverwrite: false\n"
    )
    options = read("train", "--config", str(path))
    expected = train.COMMAND.options(
        model="tiny",
        data="photos",
        output_dir="run",
        batch_size=4,
        max_train_steps=100,
        learning_rate=1e-4,
        weight_decay=1e-2,
        jit_compile=False,
        caption_dropout=0.0,
        preview_num_steps=25,
        preview_guidance_scale=7.5,
    )
    assert vars(options) == vars(expected)
