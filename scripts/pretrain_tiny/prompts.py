"""Prompts that are drawn to look at the model; fixed beforehand."""

#: Plain things, each the name of a picture.
THINGS = tuple(
    f"{'an' if thing[0] in 'aeio' else 'a'} {thing}"
    for thing in (
        "apple cat rocket pizza sailboat balloon fish mushroom crown "
        "butterfly bicycle guitar fire strawberry cactus owl flamingo frog "
        "giraffe house ghost banana snowman octopus"
    ).split()
)

#: Everyday words that are no picture's own name.
EVERYDAY = (
    "a cup",
    "a dog",
    "two dogs",
    "a flower",
    "a boat",
    "a boy",
    "a mountain",
    "a plant",
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

#: Eight things in each of eight styles; one pair of eight is in no picture.
STYLED = tuple(
    f"{thing} in {style} style"
    for style in (
        "flat",
        "glossy",
        "outline",
        "silhouette",
        "pastel",
        "duotone",
        "mosaic",
        "chalk",
    )
    for thing in (
        "a cat",
        "an octopus",
        "a rocket",
        "a house",
        "a mushroom",
        "a guitar",
        "a car",
        "a tree",
    )
)

#: Words that no caption holds.
UNKNOWN = (
    "a cat in ink style",
    "an apple in ink style",
    "a sks cat",
    "a zeppelin",
    "a cat with a hat",
    "",
    "",
    "",
)

#: What is drawn while training.
PREVIEWS = (*THINGS[:8], *STYLED[:64:9])
