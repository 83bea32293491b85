"""Prompts that are drawn to look at the model while it learns."""

#: Plain things, each the name of a picture.
THINGS = tuple(
    f"{'an' if thing[0] in 'aeio' else 'a'} {thing}"
    for thing in (
        "apple cat rocket pizza sailboat balloon fish mushroom crown "
        "butterfly bicycle guitar fire strawberry cactus owl flamingo frog "
        "giraffe house ghost banana snowman octopus"
    ).split()
)

#: Colours and things; several pairs are in no picture.
COLOURED = (
    "a blue apple",
    "a green cat",
    "a purple rocket",
    "a pink frog",
    "a yellow butterfly",
    "a red mushroom",
    "an orange fish",
    "a blue strawberry",
)

#: Words that mean nothing to the model before it is fine-tuned.
STYLED = (
    "a cat in ink style",
    "an apple in ink style",
    "a rocket in ink style",
    "a cat in sks style",
)

#: Words that no caption holds.
UNKNOWN = ("a zeppelin", "two cats", "a cat with a hat", "")

ALL = THINGS + COLOURED + STYLED + UNKNOWN
