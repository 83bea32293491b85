"""`keras-sdft push`: a run's weights, card and samples to the Hub."""

import dataclasses

from keras_sdft import disk
from keras_sdft import hub
from keras_sdft import runs
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushOptions:
    """What to upload, and where to.

    Args:
        run: A run, an exported directory, a diffusers folder, or a
            .safetensors file. Of a run, only its weights, its model card and
            the images on it.
        to: The repository, hf://owner/name; made if it does not exist.
        private: Let only its owner see a repository that is made.
        dry_run: List the files and their sizes, and upload nothing. Needs
            no network and no login.
    """

    run: str
    # What is there now does not matter.
    to: str = dataclasses.field(metadata={"pinned": str})
    private: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        hub.parse(self.to, "model")


def push(options: Options) -> None:
    """Uploads a run's weights, model card and sample images to the Hub."""
    shared = runs.shared_files(options.run)
    sizes = {name: path.stat().st_size for name, path in shared.items()}
    total = f"{len(sizes)} files, {disk.size_text(sum(sizes.values()))}"
    kind = "private" if options.private else "public"
    verb = "Would upload" if options.dry_run else "Uploading"
    print(f"{verb} to {options.to}, {kind} if it is new:", flush=True)
    for name, size in sizes.items():
        print(f"  {name:<50} {disk.size_text(size):>10}")
    print(f"  {total}", flush=True)
    if "README.md" not in shared:
        print("There is no model card (README.md) among them.")
    if not options.dry_run:
        print(f"Done: {runs.push(options.run, options.to, options.private)}")


COMMAND = Command(
    run=push,
    groups=(PushOptions,),
    positionals=("run", "to"),
    example="keras-sdft push runs/first hf://owner/name --dry_run",
    needs_tensorflow=False,
)
