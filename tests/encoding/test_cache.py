"""The cache with encoders of arithmetic: what is stored, and when it holds."""

import errno
import fcntl
import os
import re
import threading
import types

import numpy as np
import pytest
from PIL import Image

from keras_sdft import files
from keras_sdft.data import Example
from keras_sdft.data import Examples
from keras_sdft.data import Report
from keras_sdft.data import load
from keras_sdft.data import load_dreambooth
from keras_sdft.data.buckets import Assignment
from keras_sdft.data.images import UnreadableImage
from keras_sdft.data.options import LoadOptions
from keras_sdft.encoding import Cache
from keras_sdft.encoding import cache as cache_module
from keras_sdft.encoding import rows
from keras_sdft.encoding.store import read_state
from keras_sdft.models.encoder_methods import EncoderMethods
from keras_sdft.models.image_methods import ImageMethods
from keras_sdft.runs import find_caches

WIDTH = 4


class FakeImageEncoder:
    """Each moment is a mean of its pixels, and of where they stand."""

    compute_dtype = "float32"

    def __init__(self):
        self.weights = [np.arange(3.0)]
        self.batches = []

    def predict_on_batch(self, images):
        assert images.dtype == np.float32
        self.batches.append(len(images))
        b, h, w, _ = images.shape
        blocks = images.reshape(b, h // 8, 8, w // 8, 8, 3)
        ramp = np.linspace(0, 1, 8, dtype=np.float32)
        means = (blocks * ramp[:, None]).mean(axis=(2, 4, 5))
        parts = [means[:, :, ::-1] * k for k in range(1, 5)]
        parts += [blocks[:, :, k, :, 0, 0] - 7.0 for k in range(4)]
        return np.stack(parts, axis=-1)


class FakeTextEncoder:
    compute_dtype = "float32"

    def __init__(self):
        self.weights = [np.arange(5.0)]
        self.batches = []

    def predict_on_batch(self, inputs):
        self.batches.append(len(inputs["tokens"]))
        scaled = (inputs["tokens"] / 49408 + inputs["positions"]) / 3
        return np.repeat(scaled[..., None], WIDTH, -1).astype(np.float32)


class FakeModel:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.moments_model = FakeImageEncoder()
        self.text_encoder = FakeTextEncoder()
        self.spec = types.SimpleNamespace(
            text_encoder=types.SimpleNamespace(max_length=77, width=WIDTH),
            autoencoder=types.SimpleNamespace(latent_channels=4),
            clip_skip=1,
        )

        self.sources = {}

    def build_parts(self):
        """Does nothing: the encoders are built."""

    encode_tokens = ImageMethods.encode_tokens
    encoder_digest = EncoderMethods.encoder_digest

    def encoder_sources(self):
        return self.sources

    def encoded(self, batch):
        """The batch as the training step would encode it."""
        tokens = batch.pop("token_ids")
        positions = np.arange(77)[None]
        batch["context"] = self.text_encoder.predict_on_batch(
            {"tokens": tokens, "positions": positions}
        )
        images = batch.pop("images")
        batch["moments"] = self.moments_model.predict_on_batch(images)
        return batch


@pytest.fixture
def model(tokenizer):
    return FakeModel(tokenizer)


@pytest.fixture
def noise():
    """Makes examples of noise of many sizes, with masks and two captions."""

    def make(count=7):
        draws = np.random.default_rng(0)
        found = []
        for index in range(count):
            shape = (90, 100) if index % 2 else (90, 160)
            found.append(
                Example(
                    draws.integers(0, 256, (*shape, 3), np.uint8),
                    (f"a{index}, b", f"x{index % 3}"),
                    weight=1.0 + index,
                    mask=draws.integers(0, 256, shape, np.uint8),
                )
            )
        return found

    return make


OPTIONS = {
    "resolution": 128,
    "batch_size": 2,
    "seed": 3,
    "caption_dropout": 0.3,
    "caption_template": ["a {caption}", "the {caption}"],
}


def cache_of(directory, model, **options):
    options.setdefault("progress", False)
    options.setdefault("dtype", "float32")
    return Cache(directory, model, **options)


def assert_same_epochs(plain, cached, model, epochs=2):
    count = 0
    for _ in range(epochs):
        for own, other in zip(plain, cached, strict=True):
            own = {key: value.numpy() for key, value in own.items()}
            own = model.encoded(own)
            assert set(own) == set(other)
            # What padding holds counts nothing.
            counts = own["example_weight"] > 0
            for key, value in own.items():
                found = other[key].numpy()
                np.testing.assert_array_equal(value[counts], found[counts], key)
            count += 1
    assert count > 2


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"horizontal_flip": True},
        {"masks": "files", "horizontal_flip": True},
        {"resolution": 256, "buckets": True, "masks": "files"},
        {"shuffle": False, "repeats": 2},
    ],
    ids=lambda changed: "-".join(changed) or "plain",
)
def test_epochs_from_the_cache_are_those_without(
    noise, model, tokenizer, tmp_path, changed
):
    options = {**OPTIONS, **changed}
    plain = load(noise(), tokenizer, **options)
    cache = cache_of(tmp_path / "cache", model)
    cached = load(noise(), tokenizer, cache=cache, **options)
    assert list(cached.element_spec)[:2] == ["moments", "context"]
    assert cached.cardinality() == plain.cardinality()
    assert_same_epochs(plain, cached, model)


def test_prior_preservation_goes_through(
    numbered, model, tokenizer, tmp_path, write_image
):
    for value in range(4):
        write_image(tmp_path / "class" / f"{value}.png", 5 + 20 * value)
    options = {
        "instance_prompt": "a photo of sks dog",
        "class_prompt": "a photo of dog",
        "class_data_dir": tmp_path / "class",
        "resolution": 64,
        "batch_size": 3,
        "horizontal_flip": True,
        "repeats": 2,
    }
    plain = load_dreambooth(numbered, tokenizer, **options)
    cache = cache_of(tmp_path / "cache", model)
    cached = load_dreambooth(numbered, tokenizer, cache=cache, **options)
    assert "prior" in cached.element_spec
    # Ten photos and four class images, each once in spite of the repeats.
    assert len(cache.contents.used) == 14
    assert_same_epochs(plain, cached, model)


def test_each_caption_and_image_is_encoded_once(
    noise, model, tokenizer, tmp_path
):
    cache = cache_of(tmp_path / "cache", model)
    load(noise(), tokenizer, cache=cache, repeats=3, **OPTIONS)
    # Two templates of 7 + 3 captions, and the empty one: two times sixteen.
    assert len(cache.contents.keys) == 21
    assert model.text_encoder.batches == [16, 16]
    assert model.moments_model.batches == [16]
    assert "7 images, 21 captions in" in cache.summary()


def test_half_precision_rounds_to_eleven_bits(
    noise, model, tokenizer, tmp_path
):
    plain = load(noise(6), tokenizer, **OPTIONS)
    cache = cache_of(tmp_path / "cache", model, dtype=None)
    cached = load(noise(6), tokenizer, cache=cache, **OPTIONS)
    largest = 0.0
    for own, other in zip(plain, cached, strict=True):
        own = model.encoded({k: v.numpy() for k, v in own.items()})
        assert other["moments"].dtype == np.float32
        error = np.abs(own["moments"] - other["moments"].numpy())
        largest = max(largest, error.max())
    assert 0 < largest <= 8 * 2**-11


@pytest.fixture
def filled(numbered, model, tokenizer, tmp_path):
    """Fills a cache of ten pictures; returns what opens it again."""

    def open_it(changed=None, model=model, **options):
        cache = cache_of(tmp_path / "cache", model, **options)
        arguments = {"resolution": 64, "batch_size": 2, **(changed or {})}
        source = arguments.pop("source", numbered)
        dataset = load(source, tokenizer, cache=cache, **arguments)
        return cache, dataset

    open_it()
    model.moments_model.batches.clear()
    return open_it


def test_a_complete_cache_encodes_nothing(filled, model):
    cache, dataset = filled({"seed": 9, "caption_dropout": 0.5, "repeats": 2})
    assert cache.reader
    assert len(list(dataset)) == 10
    assert model.moments_model.batches == []


def test_float32_and_more_serve_those_who_want_less(filled, model):
    for options in ({"dtype": "float16"}, {"dtype": None}):
        cache, _ = filled(**options)
        assert cache.contents.dtype == "float32"
    filled({"horizontal_flip": True}, overwrite=True)
    model.moments_model.batches.clear()
    cache, dataset = filled()
    assert cache.contents.flips
    assert "token_ids" in filled(contexts=False)[1].element_spec
    assert model.moments_model.batches == []


def other_weights(model, part):
    getattr(model, part).weights[0] += 1


def touch(path):
    os.utime(path, ns=(1, 1))


def retold(numbered):
    path = numbered / "metadata.jsonl"
    path.write_text(path.read_text().replace("number 3", "a three"))


def grown(numbered):
    Image.new("RGB", (64, 64)).save(numbered / "new.png")
    with open(numbered / "metadata.jsonl", "a") as file:
        file.write('{"file_name": "new.png", "text": "number 3"}\n')


def shrunk(numbered):
    path = numbered / "metadata.jsonl"
    path.write_text("".join(path.read_text().splitlines(True)[1:]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda m, n: touch(n / "3.png"),
            r"^the images \(names, .*\) changed$",
        ),
        (lambda m, n: grown(n), r"^the number of images .*\(now 11, were 10"),
        (lambda m, n: shrunk(n), r"were 10\); the images .*; the captions"),
        (
            lambda m, n: retold(n),
            "captions or `caption_template` changed$",
        ),
        (
            lambda m, n: other_weights(m, "moments_model"),
            "weights of the image encoder changed",
        ),
        (
            lambda m, n: other_weights(m, "text_encoder"),
            "weights of the text encoder changed",
        ),
        (
            lambda m, n: setattr(m.spec, "clip_skip", 2),
            "weights of the text encoder changed",
        ),
        (
            lambda m, n: setattr(m.moments_model, "compute_dtype", "bfloat16"),
            r"image encoder changed \(now bfloat16, were float32\)",
        ),
        (lambda m, n: setattr(m.tokenizer, "encode", lambda t: [1, 2]), "tok"),
    ],
)
def test_a_stale_cache_says_why(filled, model, numbered, change, reason):
    change(model, numbered)
    with pytest.raises(ValueError, match="is stale: .*encode --overwrite") as e:
        filled()
    told = str(e.value).split("is stale: ")[1].split(". Name another")[0]
    assert re.search(reason, told), told
    cache, _ = filled(overwrite=True)
    assert cache.reader
    assert "; ".join(cache.stale) == told
    assert filled()[0].stale == []


@pytest.mark.parametrize(
    ("changed", "options", "reason"),
    [
        ({"resolution": 128}, {}, r"now \[\[128, 128\]\], were \[\[64, 64\]\]"),
        ({"horizontal_flip": True}, {}, "no mirrored images"),
        ({"caption_template": "a {caption}"}, {}, "`caption_template`"),
        ({"masks": "alpha"}, {}, r"the masks changed \(now alpha, were none\)"),
    ],
)
def test_other_options_make_it_stale(
    filled, numbered, changed, options, reason
):
    if "masks" in changed:
        Image.new("RGBA", (64, 64)).save(numbered / "1.png")
        filled(overwrite=True)
    with pytest.raises(ValueError, match=f"is stale: .*{reason}"):
        filled(changed, **options)


def test_captions_are_what_is_there_unless_asked_for(filled):
    filled({"horizontal_flip": True}, contexts=False, overwrite=True)
    _, dataset = filled({"horizontal_flip": True})
    assert "token_ids" in dataset.element_spec
    with pytest.raises(ValueError, match=r"stale: it holds no captions \(`c"):
        filled({"horizontal_flip": True}, contexts=True)


def test_half_is_not_enough_for_float32(filled, tmp_path):
    filled({"horizontal_flip": True}, dtype="float16", overwrite=True)
    with pytest.raises(ValueError, match="it holds float16, not float32"):
        filled({"horizontal_flip": True}, dtype="float32")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"crop": "random"}, "`crop='random'` cannot be cached"),
        ({"shuffle_tags": True}, "`shuffle_tags` cannot be cached"),
    ],
)
def test_what_changes_each_epoch_is_refused(
    numbered, model, tokenizer, tmp_path, changed, message
):
    cache = cache_of(tmp_path / "cache", model)
    options = {"resolution": 64, **changed}
    with pytest.raises(ValueError, match=message):
        load(numbered, tokenizer, cache=cache, **options)
    assert not (tmp_path / "cache").exists()
    if "shuffle_tags" in changed:
        cache = cache_of(tmp_path / "cache", model, contexts=False)
        dataset = load(numbered, tokenizer, cache=cache, **options)
        assert next(iter(dataset))["token_ids"].shape == (4, 77)


def test_class_images_with_buckets_are_refused(
    numbered, model, tokenizer, tmp_path, write_image
):
    write_image(numbered / "wide.png", size=(200, 100))
    write_image(tmp_path / "class" / "1.png")
    with pytest.raises(ValueError, match="Class images cannot be cached with"):
        load_dreambooth(
            numbered,
            tokenizer,
            instance_prompt="a photo of sks dog",
            class_prompt="a photo of dog",
            class_data_dir=tmp_path / "class",
            resolution=256,
            buckets=True,
            cache=cache_of(tmp_path / "cache", model),
        )


def stop_after(encoder, calls, error):
    """Lets an encoder fail at one of its calls."""
    real = encoder.predict_on_batch

    def predict(inputs):
        if len(encoder.batches) >= calls:
            raise error
        return real(inputs)

    encoder.predict_on_batch = predict
    return lambda: setattr(encoder, "predict_on_batch", real)


@pytest.mark.parametrize("part", ["moments_model", "text_encoder"])
def test_an_interrupted_encoding_goes_on(
    noise, model, tokenizer, tmp_path, part
):
    options = {**OPTIONS, "horizontal_flip": True, "masks": "files"}
    examples = noise(40)
    encoder = getattr(model, part)
    # Sixteen at once, mirrored in a call of their own.
    resume = stop_after(encoder, 2, KeyboardInterrupt)
    cache = cache_of(tmp_path / "cache", model)
    with pytest.raises(KeyboardInterrupt):
        load(examples, tokenizer, cache=cache, **options)
    state = read_state(tmp_path / "cache")
    assert not state.complete
    assert sum(state.rows.values()) > 0
    resume()
    encoder.batches.clear()
    cache = cache_of(tmp_path / "cache", model)
    cached = load(examples, tokenizer, cache=cache, **options)
    whole = {"moments_model": 6, "text_encoder": 6}[part]
    assert len(encoder.batches) == whole - 2
    plain = load(examples, tokenizer, **options)
    assert_same_epochs(plain, cached, model, epochs=1)


def test_a_killed_process_loses_only_what_was_not_noted(
    noise, model, tokenizer, tmp_path, monkeypatch
):
    """Of three groups, two were written, one noted, and the third cut."""
    options = {**OPTIONS, "masks": "files"}
    monkeypatch.setattr(rows, "FLUSH_SECONDS", 0.0)
    real, notes = rows.Filling._note, []

    def note(self, writer):
        notes.append(writer.done)
        if notes[-1] < 32 or writer.store.name == "captions":
            real(self, writer)

    monkeypatch.setattr(rows.Filling, "_note", note)
    stop_after(model.moments_model, 2, SystemExit())
    with pytest.raises(SystemExit):
        cache = cache_of(tmp_path / "cache", model)
        load(noise(40), tokenizer, cache=cache, **options)
    # Captions, and then images: the second group of 16 was never noted.
    assert notes[-3:] == [16, 32, 32]
    path = tmp_path / "cache" / "images-16x16.rows"
    size = 4 * 16 * 16 * 8 + 2 * 16 * 16 + 4
    assert path.stat().st_size == 32 * size
    os.truncate(path, 20 * size + 7)
    monkeypatch.undo()
    model = FakeModel(tokenizer)
    cache = cache_of(tmp_path / "cache", model)
    cached = load(noise(40), tokenizer, cache=cache, **options)
    assert model.moments_model.batches == [16, 16]
    plain = load(noise(40), tokenizer, **options)
    assert_same_epochs(plain, cached, model, epochs=1)


def test_a_disk_that_fills_up_leaves_nothing_valid(
    numbered, model, tokenizer, tmp_path, monkeypatch
):
    directory = tmp_path / "cache"
    options = {"resolution": 64, "batch_size": 2}
    real = os.pwrite

    def full(handle, content, offset):
        if "images" in os.readlink(f"/proc/self/fd/{handle}"):
            if offset:
                raise OSError(errno.ENOSPC, "No space left on device")
            # As a disk does it: a part first.
            content = content[:1000]
        return real(handle, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="The disk is full. What is encoded"):
        cache = cache_of(directory, model)
        load(numbered, tokenizer, cache=cache, **options)
    assert not read_state(directory).complete
    monkeypatch.setattr(os, "pwrite", real)
    model.text_encoder.batches.clear()
    cache = cache_of(directory, model)
    assert len(list(load(numbered, tokenizer, cache=cache, **options))) == 5
    assert model.text_encoder.batches == []


def test_too_small_a_disk_is_told_before_anything_is_written(
    numbered, model, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr("keras_sdft.disk.free_bytes", lambda _: 9)
    cache = cache_of(tmp_path / "cache", model)
    with pytest.raises(OSError, match="needs .* kB, and 9 bytes are"):
        load(numbered, tokenizer, resolution=64, cache=cache)
    assert not (tmp_path / "cache").exists()


def test_only_one_process_fills(numbered, model, tokenizer, tmp_path):
    directory = tmp_path / "cache"
    directory.mkdir()
    with open(directory / "lock", "w") as file:
        file.write("id 4711 on elsewhere")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        cache = cache_of(directory, model)
        with pytest.raises(
            BlockingIOError, match=r"process \(id 4711 on elsewhere\) is"
        ):
            load(numbered, tokenizer, resolution=64, cache=cache)
    cache = cache_of(directory, model)
    load(numbered, tokenizer, resolution=64, cache=cache)
    assert cache.reader


def test_what_another_process_has_filled_is_taken(filled, model, numbered):
    touch(numbered / "1.png")
    waiting, _ = filled(overwrite=True, defer=True)
    assert waiting.stale
    filled(overwrite=True)
    model.moments_model.batches.clear()
    waiting.fill()
    assert waiting.reader and not waiting.stale
    assert model.moments_model.batches == []


def test_a_directory_that_cannot_be_written(
    numbered, model, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    cache = cache_of(tmp_path / "cache", model)
    with pytest.raises(PermissionError, match="`cache` cannot be written to"):
        load(numbered, tokenizer, resolution=64, cache=cache)


def test_a_complete_cache_may_be_read_only(filled, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(list(filled()[1])) == 5


def test_reading_counts_as_use(filled, tmp_path):
    for path in (tmp_path / "cache").iterdir():
        touch(path)
    (found,) = find_caches(tmp_path)
    assert found.days > 10_000
    filled()
    (found,) = find_caches(tmp_path)
    assert found.days < 1


def test_a_foreign_directory_is_refused(numbered, model, tokenizer):
    before = sorted(os.listdir(numbered))
    cache = cache_of(numbered, model, overwrite=True)
    with pytest.raises(FileExistsError, match="holds no cache of keras_sdft"):
        load(numbered, tokenizer, resolution=64, cache=cache)
    assert sorted(os.listdir(numbered)) == before


def test_a_file_is_no_directory(numbered, model, tokenizer):
    cache = cache_of(numbered / "1.png", model)
    with pytest.raises(NotADirectoryError, match="Received a file"):
        load(numbered, tokenizer, resolution=64, cache=cache)


def test_another_format_is_stale(filled, tmp_path):
    state = read_state(tmp_path / "cache")
    state.format = 99
    state.write(tmp_path / "cache")
    with pytest.raises(ValueError, match="it has format 99, and this version"):
        filled()
    filled(overwrite=True)
    assert read_state(tmp_path / "cache").complete


def test_a_damaged_state_is_never_replaced(filled, tmp_path):
    path = tmp_path / "cache" / "cache.json"
    text = path.read_text()
    damages = ["", "[]", "{}", '{"keras_sdft_cache": 2}', "[" * 100_000]
    damages += [text[:-20], text.replace("true", "false"), text + "}"]
    for damage in damages:
        path.write_text(damage)
        with pytest.raises(ValueError, match="cache.json"):
            filled(overwrite=True)


@pytest.mark.parametrize("damage", ["cut", "gone"])
@pytest.mark.parametrize("complete", [True, False])
def test_a_lost_file_is_told(filled, tmp_path, damage, complete):
    path = tmp_path / "cache" / "images-8x8.rows"
    state = read_state(tmp_path / "cache")
    state.complete = complete
    state.write(tmp_path / "cache")
    if damage == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match="is stale: it is damaged: .*images"):
        filled()
    filled(overwrite=True)
    filled()


def test_a_row_that_changed_on_the_disk_is_named(filled, tmp_path):
    """One bit, a row in another's place, zeros, NaN: not a learning rate."""
    cache, dataset = filled()
    row = cache.contents.buckets()[0].row
    path = tmp_path / "cache" / "images-8x8.rows"
    rows = np.fromfile(path, row)
    assert rows.shape == (10,)
    stored = cache.reader.buckets[0]
    np.testing.assert_array_equal(stored[4]["moments"], rows[4]["moments"])
    rows.view(np.uint8)[4 * row.itemsize + 100] ^= 1
    rows[5] = rows[6]
    rows[7] = np.zeros((), row)
    rows["moments"][8, 0, 0, 0] = np.nan
    rows.tofile(path)
    for number in range(10):
        if number in (4, 5, 7, 8):
            message = f"images-8x8.rows: row {number} of 10 is damaged"
            with pytest.raises(ValueError, match=message):
                _ = stored[number]
        else:
            _ = stored[number]
    with pytest.raises(Exception, match="is damaged: it is not what was wri"):
        list(dataset)


def test_readers_keep_a_cache_that_is_replaced(filled, model, numbered):
    _, dataset = filled({"shuffle": False})
    before = [batch["moments"].numpy() for batch in dataset]
    Image.new("RGB", (64, 64), "red").save(numbered / "3.png")
    replaced, _ = filled(overwrite=True)
    assert "times of change) changed" in replaced.stale[0]
    np.testing.assert_array_equal(
        before, [batch["moments"].numpy() for batch in dataset]
    )


def test_unreadable_images_are_replaced_as_without(
    numbered, model, tokenizer, tmp_path, monkeypatch
):
    # As if they were beyond those that are looked at before training.
    monkeypatch.setattr(
        "keras_sdft.data.pipeline.drop_unreadable",
        lambda found, *rest, **options: found,
    )
    for number in (2, 5):
        (numbered / f"{number}.png").write_bytes(b"no image")
    options = {"resolution": 64, "batch_size": 2, "horizontal_flip": True}
    plain, report = Report(), Report()
    uncached = load(numbered, tokenizer, report=plain, **options)
    cache = cache_of(tmp_path / "cache", model)
    cached = load(numbered, tokenizer, cache=cache, report=report, **options)
    assert_same_epochs(uncached, cached, model)
    assert sorted(plain.rows) == sorted(report.rows)
    assert [name for name, _ in sorted(report.rows)] == ["2.png", "5.png"]


class Damaged(list):
    """Examples of which the second cannot be fetched, as a cut TFRecord."""

    identity = "as a TFDS dataset has it"

    def __getitem__(self, index):
        if index == 1:
            raise UnreadableImage("the record is damaged")
        return super().__getitem__(index)


def test_records_that_cannot_be_fetched(noise, model, tokenizer, tmp_path):
    assignment = Assignment(((128, 128),), np.zeros(7, int))
    options = LoadOptions(resolution=128, batch_size=1)
    cache = cache_of(tmp_path / "cache", model)
    assert cache.plan(Examples(Damaged(noise())), assignment, options, 7)
    assert cache.reader.unreadable == {
        1: ["example 1", "the record is damaged"]
    }
    assert len(cache.contents.keys) == 10


def test_values_that_half_precision_cannot_hold(
    numbered, model, tokenizer, tmp_path
):
    real = model.moments_model.predict_on_batch
    model.moments_model.predict_on_batch = lambda images: real(images) * 1e9
    cache = cache_of(tmp_path / "cache", model, dtype="float16")
    with pytest.raises(ValueError, match="Encode with `dtype='float32'`"):
        load(numbered, tokenizer, resolution=64, cache=cache)


def test_sources_spare_the_weights(filled, model, numbered):
    model.sources = {"image_encoder": "file 1", "text_encoder": "file 2"}
    Image.new("RGB", (64, 64), "red").save(numbered / "3.png")
    filled(overwrite=True)
    blind = types.SimpleNamespace(tokenizer=model.tokenizer, spec=model.spec)
    blind.encoder_sources = lambda: model.sources
    digest = types.MethodType(EncoderMethods.encoder_digest, blind)
    blind.encoder_digest = digest
    cache, dataset = filled(model=blind)
    assert len(list(dataset)) == 5
    model.sources["text_encoder"] = "3"
    with pytest.raises(AttributeError):
        filled(model=blind)


def test_a_reason_against_filling_gives_plain_batches(filled, tmp_path):
    seen = []

    def unless(**needs):
        seen.append(needs)
        return "no time"

    changed = {"horizontal_flip": True}
    cache, dataset = filled(changed, unless=unless, overwrite=True)
    assert cache.skip_reason == "no time"
    assert "images" in dataset.element_spec
    row, text = 4 * 2 * 8 * 8 * 8 + 4, 4 * 77 * WIDTH + 4
    num_bytes = 10 * row + 11 * text
    assert seen == [{"num_images": 20, "num_rows": 10, "num_bytes": num_bytes}]
    cache, dataset = filled(unless=unless)
    assert len(seen) == 1 and "moments" in dataset.element_spec


def test_a_deferred_cache_is_filled_later(numbered, model, tokenizer, tmp_path):
    cache = cache_of(tmp_path / "cache", model, defer=True)
    with pytest.raises(RuntimeError, match="knows no data yet"):
        cache.fill()
    dataset = load(numbered, tokenizer, resolution=64, cache=cache)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(RuntimeError, match="is not filled yet: call"):
        _ = cache.reader
    cache.fill()
    first = next(iter(dataset))["moments"]
    assert first.shape == (4, 8, 8, 8)
    # The same data may be read again, for another start for example.
    again = load(numbered, tokenizer, resolution=64, cache=cache)
    np.testing.assert_array_equal(first, next(iter(again))["moments"])
    with pytest.raises(ValueError, match="serves one data set"):
        load(numbered, tokenizer, resolution=128, cache=cache)


@pytest.mark.parametrize("buckets", [False, True])
def test_workers_read_their_rows_of_one_cache(
    noise, model, tokenizer, tmp_path, buckets, monkeypatch
):
    options = {**OPTIONS, "resolution": 256, "buckets": buckets}
    options["batch_size"] = 4
    cache = cache_of(tmp_path / "cache", model)
    whole = list(load(noise(), tokenizer, cache=cache, **options))
    parts = [
        load(
            noise(),
            tokenizer,
            cache=cache_of(tmp_path / "cache", model),
            worker=(index, 2),
            **options,
        )
        for index in range(2)
    ]
    for batch, *own in zip(whole, *parts, strict=True):
        assert own[1]["place"].numpy().tolist() == [2, 3]
        for key, value in batch.items():
            found = np.concatenate([part[key] for part in own])
            np.testing.assert_array_equal(found, value)


def test_a_worker_waits_for_the_one_that_fills_the_cache(
    noise, model, tokenizer, tmp_path
):
    lock = files.Lock(tmp_path / "cache" / "lock", "is filling the cache")
    waits = threading.Timer(0.5, lock.release)
    cache = cache_of(tmp_path / "cache", model)
    waits.start()
    load(noise(), tokenizer, cache=cache, worker=(1, 2), **OPTIONS)
    assert waits.finished.is_set() and cache.reader


def test_a_worker_that_can_only_read_waits_for_one_that_writes(
    noise, model, tokenizer, tmp_path, monkeypatch
):
    def load_as(index, cache):
        load(noise(), tokenizer, cache=cache, worker=(index, 2), **OPTIONS)

    class ReadOnly(files.Lock):
        def __init__(self, path, *arguments, **options):
            if threading.current_thread() is not first:
                raise PermissionError(13, "Permission denied", str(path))
            super().__init__(path, *arguments, **options)

    monkeypatch.setattr(files, "Lock", ReadOnly)
    monkeypatch.setattr(cache_module, "_POLL_SECONDS", 0.01)
    directory = tmp_path / "cache"
    first = threading.Thread(
        target=load_as, args=(0, cache_of(directory, model))
    )
    first.start()
    cache = cache_of(directory, model)
    load_as(1, cache)
    first.join()
    assert cache.reader
    monkeypatch.setattr(cache_module, "_PATIENCE_SECONDS", 0.05)
    with pytest.raises(PermissionError, match="Permission denied"):
        load_as(1, cache_of(tmp_path / "none", model))
