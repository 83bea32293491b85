"""Trains the embedded model's byte-pair vocabulary, in CLIP's format.

Reads the icons' names and a list of words people prompt with; writes the
merges file that KerasCV's `SimpleTokenizer` reads. Knows no pixels.
Run `python -m scripts.pretrain_tiny.vocabulary`.
"""

import argparse
import collections
import gzip
import pathlib

import regex

from scripts.pretrain_tiny import icons
from scripts.pretrain_tiny import lexicon
from scripts.pretrain_tiny import pictures

VOCABULARY_SIZE = 2048
NUM_SPECIAL = 2
HEADER = "#version: 0.2"
OUTPUT = pathlib.Path("build/pretrain/merges.txt.gz")

# CLIP's way of cutting lower-cased text into words.
WORDS = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)

#: Words in nearly every caption; weight 1,000 each, so one token each.
FRAME_WORDS = """
    a an the of in on at and with by photo picture drawing painting image
    icon emoji style ink sks soft round simple background two three
    flat glossy outline silhouette pastel duotone mosaic chalk
    animal plant fruit vegetable food drink vehicle building weather
    clothing instrument tool toy ball face object for from to two big small
    is , .
    red orange yellow green blue purple pink brown black white grey
"""

#: Words prompts are likely to hold though no icon is called so; weight 1.
PROMPT_WORDS = """
    gray gold silver bronze dark light bright pale colourful colorful
    colour color
    big small large tiny little huge long short tall round square thin fat
    old new young happy sad angry cute funny pretty beautiful scary cool hot
    cold warm wet dry shiny fresh sweet wooden golden magic mini two three
    one four five many some his her its my your this that is are wearing
    holding eating riding flying running sitting standing sleeping smiling
    looking from to for under over near behind front side top view no not
    close up centered background isolated plain detailed quality best high
    low resolution sketch cartoon watercolor watercolour oil pencil pen
    line art illustration vector logo sticker clipart pixel render 3d
    outline stamp woodcut print poster portrait landscape realistic abstract
    minimal vintage modern retro pop neon monochrome pastel japanese chinese
    van gogh monet picasso anime comic manga engraving
    man woman boy girl child baby person people king queen dog puppy cat
    kitten horse cow sheep lamb chick bird fish tree flower leaf grass
    forest garden mountain river lake sea ocean beach island desert sky
    cloud rain snow ice fire water sun moon star planet earth world city
    street road bridge house home room door window wall floor table chair
    bed lamp clock book paper letter phone computer robot car truck train
    plane boat ship bike wheel engine rocket hat shirt shoe dress bag box
    cup bottle bowl plate knife fork spoon bread cheese egg milk tea coffee
    cake cookie candy apple banana lemon cherry berry grape pear peach
    pumpkin potato carrot corn tomato pepper salad soup pizza burger noodle
    music song guitar piano drum game ball toy doll sword shield crown ring
    heart eye eyes nose mouth ear hand foot leg head hair tail wing body
    circle triangle rhombus shape pattern stripe dot spots wave
    blurry ugly bad deformed text watermark hands extra
    spring summer autumn winter day night morning evening christmas
    halloween birthday party wedding love peace war time life death
"""


def _byte_table():
    ranges = (("!", "~"), ("¡", "¬"), ("®", "ÿ"))
    plain = [byte for a, b in ranges for byte in range(ord(a), ord(b) + 1)]
    table = {byte: chr(byte) for byte in plain}
    others = [byte for byte in range(256) if byte not in table]
    table.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return table


def train_merges(counts: "dict[str, int]", num_merges: int) -> list:
    """Learns byte-pair merges from words and their counts.

    Ties are broken by the pair itself, so that the result depends on the
    counts only, not on their order.

    Args:
        counts: Dictionary of lower-case words to positive counts.
        num_merges: Int, how many merges to learn.

    Returns:
        List of `num_merges` pairs of strings, in order of rank.

    Raises:
        ValueError: If the words have fewer pairs than asked for.
    """
    table = _byte_table()
    words = {}
    for word, count in sorted(counts.items()):
        symbols = [table[byte] for byte in word.encode("utf-8")]
        words[tuple(symbols[:-1]) + (symbols[-1] + "</w>",)] = count
    merges = []
    while len(merges) < num_merges:
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += count
        if not pairs:
            raise ValueError(
                f"`counts` has too few words for {num_merges} merges. "
                f"Received words that make {len(merges)}. Add words."
            )
        best = min(pairs, key=lambda pair: _order(pair, pairs[pair]))
        merges.append(best)
        words = {_merge(word, best): n for word, n in words.items()}
    return merges


def _order(pair, count):
    # Of equals the longest goes first: it finishes words already begun,
    # where the shortest would begin all words and finish none.
    return -count, -len(pair[0] + pair[1]), pair


def _merge(word, pair):
    merged, i = [], 0
    while i < len(word):
        if word[i : i + 2] == pair:
            merged.append(word[i] + word[i + 1])
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return tuple(merged)


def word_counts(names: "dict[str, int]") -> "dict[str, int]":
    """Counts the words of icon names and of likely prompts.

    Args:
        names: Dictionary of names as spoken ("red apple") to weights.

    Returns:
        Dictionary of lower-case words to positive weights.
    """
    counts = collections.Counter()
    for text, weight in ((FRAME_WORDS, 1000), (PROMPT_WORDS, 1)):
        for word in WORDS.findall(text.lower()):
            counts[word] += weight
    for name, weight in names.items():
        for word in set(WORDS.findall(name.lower())):
            counts[word] += weight
    return dict(counts)


def spoken_names(packages: pathlib.Path) -> "dict[str, int]":
    """Every way of saying the name of every icon, with a weight.

    Things that are taught weigh most, then their plurals, then the others,
    which make the vocabulary fit for other words.

    Args:
        packages: Path of the directory of npm packages.

    Returns:
        Dictionary of strings to positive integers.
    """
    names: dict[str, int] = {}
    for icon in icons.read_icons(icons.BASE, packages):
        ways = lexicon.spoken(icon.name)
        taught = pictures.taught(icon.name)
        for way in ways:
            names[way] = max(names.get(way, 0), 24 if taught else 1)
        if taught and pictures.counted(icon.name):
            names.setdefault(lexicon.plural(ways[0]), 3)
    return names


def write_merges(merges: list, path: pathlib.Path) -> None:
    """Writes merges as KerasCV's tokenizer reads them, byte for byte alike.

    There is no line break at the end: the tokenizer would take the empty
    line after it for a merge of nothing.

    Args:
        merges: List of pairs of strings.
        path: Path of the `.txt.gz` file to write.
    """
    lines = [HEADER] + [" ".join(pair) for pair in merges]
    data = "\n".join(lines).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 9, mtime=0))


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--packages", type=pathlib.Path, default=pictures.PACKAGES
    )
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    parser.add_argument("--size", type=int, default=VOCABULARY_SIZE)
    options = parser.parse_args(arguments)
    num_merges = options.size - 2 * 256 - NUM_SPECIAL
    counts = word_counts(spoken_names(options.packages))
    write_merges(train_merges(counts, num_merges), options.output)
    size = options.output.stat().st_size
    print(f"{num_merges} merges, {size} bytes: {options.output}")


if __name__ == "__main__":
    main()
