"""`keras-sdft report`: the page of a run again, or one that compares runs."""

import dataclasses

from keras_sdft import runs
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What to report on.

    Args:
        runs: Directories of one run or more.
        output: Path of the page that compares several runs.
    """

    runs: list[str]
    output: str = "comparison.html"


def report(options: Options) -> None:
    """Writes the report of a run again, or compares runs."""
    for path in options.runs:
        print(runs.write_report(path))
    if len(options.runs) > 1:
        print(runs.write_comparison(options.runs, options.output))


COMMAND = Command(
    run=report,
    groups=(ReportOptions,),
    positionals=("runs",),
    example="keras-sdft report runs/first runs/second",
)
