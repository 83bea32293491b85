"""Training into the directory of a run: its callbacks, `fit` and the export."""

import dataclasses
import math
import shlex
from collections.abc import Iterator
from typing import Any

from keras_sdft import distribution
from keras_sdft.disk import size_text
from keras_sdft.runs.cards import model_card
from keras_sdft.runs.directory import RunDirectory
from keras_sdft.runs.options import PreviewOptions
from keras_sdft.runs.options import RunOptions
from keras_sdft.runs.report import data_facts
from keras_sdft.runs.report import note_facts
from keras_sdft.runs.report import report_callback
from keras_sdft.runs.report import warn_on_error
from keras_sdft.runs.resume import command_to_resume
from keras_sdft.runs.resume import data_state
from keras_sdft.training import CheckpointOptions

_NOTICE = (
    "Finishing this step; then a checkpoint and the weights are written. "
    "A second signal ends at once."
)


@dataclasses.dataclass(frozen=True)
class RunData:
    """The data of a run, and how long it is.

    Attributes:
        training: `tf.data.Dataset` of the batches of one epoch.
        validation: The same for validation, or `None`.
        report: `keras_sdft.data.Report`.
        images_per_step: Integer, images in one optimizer step.
        steps_per_epoch: Integer, optimizer steps in one epoch.
        steps: Integer, optimizer steps of the run.
        is_pass: Boolean, whether an epoch is one pass over the images.
        validation_every_epochs: Integer, epochs between two validations.
    """

    training: Any
    validation: Any
    report: Any
    images_per_step: int
    steps_per_epoch: int
    steps: int
    is_pass: bool = True
    validation_every_epochs: int = 1

    @property
    def epochs(self) -> int:
        """Epochs that `steps` need; the last one may be cut short."""
        return math.ceil(self.steps / self.steps_per_epoch)

    @property
    def validation_freq(self) -> list[int]:
        """Epochs, counted from 1, after which is validated; the last is."""
        every = self.validation_every_epochs
        found = set(range(every, self.epochs + 1, every))
        return sorted(found | {self.epochs})


def make_callbacks(
    run: RunDirectory,
    data: RunData,
    options: RunOptions,
    previews: PreviewOptions,
    checkpoints: CheckpointOptions,
) -> dict[str, Any]:
    """Makes the callbacks of a run, by class; none writes before `fit`.

    They are in the order in which they depend on each other's logs.
    """
    from keras_sdft import callbacks

    found = [
        # First, so that nothing is made or saved of weights that broke.
        callbacks.StopOnNaN(),
        callbacks.Throughput(data.images_per_step),
        callbacks.StopAtStep(data.steps),
        callbacks.HistoryFile(run.history),
        callbacks.TensorBoard(run.logs, options.log_every_steps),
        *previews.make(run, options.seed),
        report_callback(run.path),
    ]
    if options.save_every_steps:
        found.append(callbacks.Export(run.weights, options.save_every_steps))
    by_steps = checkpoints.checkpoint_every_steps
    by_minutes = None if by_steps else checkpoints.checkpoint_every_minutes
    keeper = callbacks.Checkpoint(
        run.checkpoints,
        every_steps=by_steps,
        every_minutes=by_minutes or None,
        keep_last=checkpoints.keep_checkpoints,
        keep_best=checkpoints.keep_best,
        best_directory=run.best,
        interruption=callbacks.Interruption(_NOTICE),
        about={"data": data_state(data.report)},
    )
    progress = callbacks.Progress(data.steps, data.images_per_step)
    return {type(c).__name__: c for c in [*found, keeper, progress]}


def fit(
    run: RunDirectory,
    trainer: Any,
    data: RunData,
    callbacks: dict[str, Any],
    prompt: str,
) -> None:
    """Trains for exactly `data.steps` steps, exports, and says where it is.

    Of several workers the first one writes; the others wait until it has.

    Args:
        run: `RunDirectory`.
        trainer: A compiled `keras_sdft.Trainer`.
        data: `RunData`.
        callbacks: Dict of `make_callbacks`.
        prompt: String, what to try the result with.

    Raises:
        keras_sdft.training.Interrupted: If a signal ended it; there is a
            checkpoint and an export then.
        ValueError: If the loss became NaN or infinite.
    """
    from keras_sdft.training import Interrupted

    if not trainer.writes_files:
        _fit_beside(trainer, data, callbacks)
        return
    with warn_on_error(run.path):
        seen = data_facts(data.report, trainer.stable_diffusion.tokenizer)
        note_facts(run.path, steps=data.steps, prompt=prompt, data=seen)
    run.begin()
    # Of a run that had ended, and is made longer.
    callbacks["Checkpoint"].best = run.record.summary.get("best")
    with callbacks["Checkpoint"].interruption:
        try:
            _train(trainer, data, callbacks)
        except Interrupted:
            _export_interrupted(run, trainer)
            distribution.barrier()
            raise
        finally:
            callbacks["Progress"].close()
            if len(data.report):
                data.report.write(run.skipped)
                print(f"Unreadable images, left out (see {run.skipped}):")
                print(data.report.table(20))
        trainer.export(run.weights, overwrite=True, card=model_card(run))
        # What a signal after the last step has put off; the card shows it.
        if "Previews" in callbacks and callbacks["Previews"].complete():
            trainer.export(run.weights, overwrite=True, card=model_card(run))
    last = callbacks["HistoryFile"].rows[-1]
    values = {name: value for name, value in last.items() if "loss" in name}
    run.finish(step=data.steps, **values, best=callbacks["Checkpoint"].best)
    print("\n".join(_outcome(run, callbacks, prompt)), flush=True)
    distribution.barrier()


def _fit_beside(trainer: Any, data: RunData, callbacks: dict[str, Any]) -> None:
    """Trains as another worker than the one that writes, and waits for it."""
    from keras_sdft.training import Interrupted

    with callbacks["Checkpoint"].interruption:
        try:
            _train(trainer, data, callbacks)
        except Interrupted:
            distribution.barrier()
            raise
        distribution.barrier()


def _train(trainer: Any, data: RunData, callbacks: dict[str, Any]) -> None:
    trainer.fit(
        data.training,
        epochs=data.epochs,
        validation_data=data.validation,
        validation_freq=data.validation_freq,
        callbacks=list(callbacks.values()),
        verbose=0,
        # The data is shuffled already; Keras warns if it is asked to.
        shuffle=False,
    )


def _export_interrupted(run: RunDirectory, trainer: Any) -> None:
    from keras_sdft.training import checkpoint_files

    step, where = trainer.progress.position.step, str(run.weights)
    try:
        trainer.export(where, overwrite=True, card=model_card(run))
    except (OSError, ValueError) as error:
        where = f"not exported: {error}"
    found = checkpoint_files.find_all(run.checkpoints)
    told = "with a checkpoint"
    if checkpoint_files.path_of(run.checkpoints, step) not in found:
        told = f"and the last checkpoint is {found[0] if found else None}"
    print(
        f"Interrupted after step {step:,}, {told}.\n"
        f"  weights   {where}\nGo on with:\n  {command_to_resume(run)}",
        flush=True,
    )
    # Last: a disk that is full has no room for it either.
    run.update(state="interrupted", step=step)


def _outcome(
    run: RunDirectory, callbacks: dict[str, Any], prompt: str
) -> Iterator[str]:
    names = ("loss", "instance_loss", "prior_loss", "val_loss")
    keeper = callbacks["Checkpoint"]
    yield f"Done: {callbacks['HistoryFile'].summary(names)}"
    yield f"  weights   {run.weights}"
    if keeper.best is not None:
        value, epoch = keeper.best["value"], keeper.best["epoch"]
        found = f"{keeper.keep_best} {value:.4f} in epoch {epoch}"
        yield f"  best      {run.best} ({found})"
    yield f"  report    {run.report}"
    yield f"  history   {run.history}"
    yield f"  logs      tensorboard --logdir {shlex.quote(str(run.logs))}"
    if "Previews" in callbacks:
        yield f"  previews  {run.before_and_after}"
    if run.checkpoints.is_dir():
        sizes = [p.stat().st_size for p in run.checkpoints.rglob("*")]
        yield (
            f"  go on     {command_to_resume(run)} --max_train_steps N (else "
            f"{run.checkpoints}, {size_text(sum(sizes))}, may be removed)"
        )
    command = ["keras-sdft", "generate", "--model", str(run.path)]
    command += ["--prompt", prompt, "--output", "out.png"]
    yield f"Try it:\n  {shlex.join(command)}"
