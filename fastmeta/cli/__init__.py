"""The command line: ``fastmeta train sinusoid|omniglot``, ``eval``, ``reproduce``, ``bench``, ``info``.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated by SIGTERM.  An error is one line on standard error.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

import fastmeta
from fastmeta import config
from fastmeta.cli import commands, reproduce
from fastmeta.cli.commands import Usage
from fastmeta.cli.recipes import OMNIGLOT, SINUSOID

__all__ = ["app"]


class Group(typer.core.TyperGroup):
    """Shows every expected error as one line and turns it into an exit code."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        extra["standalone_mode"] = False
        if not standalone_mode:
            return super().main(*args, **extra)
        try:
            config.debug()  # refused before any work if it is neither 0 nor 1
            code = super().main(*args, **extra)
        except Exception as error:
            code = _shown(error)
        sys.exit(code if isinstance(code, int) else 0)


def _shown(error: Exception) -> int:
    """Prints one line for an error and returns the exit code; raises what is a bug, or everything in debug mode."""
    if _debugging():
        raise error
    if hasattr(error, "format_message"):  # of typer, or of click in older versions of it
        message, code = error.format_message(), getattr(error, "exit_code", 2)
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(message, err=True)
            return int(code)
    elif isinstance(error, Usage):
        message, code = str(error), 2
    elif isinstance(error, ValueError | TypeError | IndexError | OSError | RuntimeError | MemoryError):
        message, code = str(error) or type(error).__name__, 1
    else:
        raise error
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return int(code)


def _debugging() -> bool:
    try:
        return config.debug()
    except ValueError:  # the error to show is this one
        return False


app = typer.Typer(
    cls=Group,
    name="fastmeta",
    help="Meta-learning by a native engine.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
train = typer.Typer(
    cls=Group, name="train", help="Train, evaluate on new tasks, and write result, plots and checkpoint.",
    no_args_is_help=True, rich_markup_mode=None,
)  # fmt: skip
app.add_typer(train)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fastmeta {fastmeta.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = False,
) -> None:
    """What is common to all commands."""


def _option(settings: dict[str, Any] | None, key: str, text: str, *flags: str) -> Any:
    default = "" if settings is None or settings[key] is None else f" [default: {_text(settings[key])}]"
    return typer.Option(*flags, help=text + default, show_default=False)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# The meaning of an option is the same in both commands; its default is not.
STEPS = "Meta-steps."
TASKS = "Tasks of a meta-step."
SHOTS, QUERIES = "Support examples of a task (per class).", "Query examples of a task (per class) in training."
HIDDEN = "Sizes of the hidden layers, as in 40,40."
INNER_LR, INNER_STEPS, ORDER = (
    "Inner learning rate.",
    "Inner steps in training.",
    "2: exact meta-gradient, 1: first order.",
)
INNER_CLIP, META_CLIP = "Largest global norm of an inner gradient.", "Largest global norm of the meta-gradient."
META_LR, META_LR_END = "Learning rate of Adam.", "Learning rate at the end, approached along a cosine."
EPISODES, TEST_STEPS = "New tasks in the final test.", "Inner steps in the final test."
SEED = "Seed of parameters and tasks."

Out = Annotated[str | None, typer.Option(help="Folder for results, without those of another run [default: runs/TASK-DATE-TIME].", show_default=False)]
Resume = Annotated[str | None, typer.Option(help="Go on from this checkpoint, with its settings.", show_default=False)]
Data = Annotated[
    str | None,
    typer.Option(
        help="Folder with images_background and images_evaluation (.zip or unpacked) [default: download].",
        show_default=False,
    ),
]
Threads = Annotated[int | None, typer.Option(help="Threads [default: what the machine grants].", show_default=False)]
CheckpointEvery = Annotated[int, typer.Option(help="Meta-steps between checkpoints.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]


@train.command("sinusoid")
def _sinusoid(
    steps: Annotated[int | None, _option(SINUSOID, "steps", STEPS)] = None,
    tasks: Annotated[int | None, _option(SINUSOID, "tasks", TASKS)] = None,
    shots: Annotated[int | None, _option(SINUSOID, "shots", SHOTS)] = None,
    queries: Annotated[int | None, _option(SINUSOID, "queries", QUERIES)] = None,
    hidden: Annotated[str | None, _option(SINUSOID, "hidden", HIDDEN)] = None,
    inner_lr: Annotated[float | None, _option(SINUSOID, "inner_lr", INNER_LR)] = None,
    inner_steps: Annotated[int | None, _option(SINUSOID, "inner_steps", INNER_STEPS)] = None,
    inner_clip: Annotated[float | None, _option(SINUSOID, "inner_clip", INNER_CLIP)] = None,
    order: Annotated[int | None, _option(SINUSOID, "order", ORDER)] = None,
    meta_lr: Annotated[float | None, _option(SINUSOID, "meta_lr", META_LR)] = None,
    meta_lr_end: Annotated[float | None, _option(SINUSOID, "meta_lr_end", META_LR_END)] = None,
    meta_clip: Annotated[float | None, _option(SINUSOID, "meta_clip", META_CLIP)] = None,
    test_episodes: Annotated[int | None, _option(SINUSOID, "test_episodes", EPISODES)] = None,
    test_steps: Annotated[int | None, _option(SINUSOID, "test_steps", TEST_STEPS)] = None,
    seed: Annotated[int | None, _option(SINUSOID, "seed", SEED)] = None,
    out: Out = None,
    resume: Resume = None,
    checkpoint_every: CheckpointEvery = 10_000,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """MAML on sinusoid regression, the paper's setting by default; needs no data."""
    given = {key: value for key, value in locals().items() if key in SINUSOID and value is not None}
    commands.train(
        SINUSOID, given, None, out=out, resume=resume, checkpoint_every=checkpoint_every, threads=threads,
        show=commands.Show(quiet, json),
    )  # fmt: skip


@train.command("omniglot")
def _omniglot(
    data: Data = None,
    steps: Annotated[int | None, _option(OMNIGLOT, "steps", STEPS)] = None,
    tasks: Annotated[int | None, _option(OMNIGLOT, "tasks", TASKS)] = None,
    ways: Annotated[int | None, _option(OMNIGLOT, "ways", "Classes of a task.")] = None,
    shots: Annotated[int | None, _option(OMNIGLOT, "shots", SHOTS)] = None,
    queries: Annotated[int | None, _option(OMNIGLOT, "queries", QUERIES)] = None,
    hidden: Annotated[str | None, _option(OMNIGLOT, "hidden", HIDDEN)] = None,
    inner_lr: Annotated[float | None, _option(OMNIGLOT, "inner_lr", INNER_LR)] = None,
    inner_steps: Annotated[int | None, _option(OMNIGLOT, "inner_steps", INNER_STEPS)] = None,
    inner_clip: Annotated[float | None, _option(OMNIGLOT, "inner_clip", INNER_CLIP)] = None,
    order: Annotated[int | None, _option(OMNIGLOT, "order", ORDER)] = None,
    meta_lr: Annotated[float | None, _option(OMNIGLOT, "meta_lr", META_LR)] = None,
    meta_lr_end: Annotated[float | None, _option(OMNIGLOT, "meta_lr_end", META_LR_END)] = None,
    meta_clip: Annotated[float | None, _option(OMNIGLOT, "meta_clip", META_CLIP)] = None,
    rotations: Annotated[str | None, _option(OMNIGLOT, "rotations", "task, class or none.")] = None,
    split_seed: Annotated[int | None, _option(OMNIGLOT, "split_seed", "Seed of the split of characters.")] = None,
    test_episodes: Annotated[int | None, _option(OMNIGLOT, "test_episodes", EPISODES)] = None,
    test_steps: Annotated[int | None, _option(OMNIGLOT, "test_steps", TEST_STEPS)] = None,
    test_queries: Annotated[int | None, _option(OMNIGLOT, "test_queries", "Query examples per class in tests.")] = None,
    seed: Annotated[int | None, _option(OMNIGLOT, "seed", SEED)] = None,
    out: Out = None,
    resume: Resume = None,
    checkpoint_every: CheckpointEvery = 5000,
    validate_every: Annotated[int, typer.Option(help="Meta-steps between validations.")] = 500,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """MAML on Omniglot with a fully connected net; tested on characters it has never seen."""
    given = {key: value for key, value in locals().items() if key in OMNIGLOT and value is not None}
    commands.train(
        OMNIGLOT, given, data, out=out, resume=resume, checkpoint_every=checkpoint_every, threads=threads,
        validate_every=validate_every, show=commands.Show(quiet, json),
    )  # fmt: skip


@app.command("eval")
def _eval(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint of fastmeta train.")],
    data: Data = None,
    episodes: Annotated[int | None, typer.Option(help="New tasks [default: as trained].", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Inner steps [default: as trained].", show_default=False)] = None,
    split: Annotated[str, typer.Option(help="test, validation or train characters.")] = "test",
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Evaluate a checkpoint on new tasks, after 0, 1, ... inner steps."""
    commands.evaluate_checkpoint(
        checkpoint, data, episodes, steps, split, threads=threads, show=commands.Show(quiet, json)
    )


@app.command("reproduce")
def _reproduce(
    names: Annotated[list[str] | None, typer.Argument(help="Configurations, trained one after another.")] = None,
    data: Data = None,
    out: Annotated[str, typer.Option(help="Folder for results, checkpoints and logs.")] = "runs/reproduce",
    minutes: Annotated[
        float | None,
        typer.Option(help="Time limit of each training [default: the configuration's].", show_default=False),
    ] = None,
    list_names: Annotated[bool, typer.Option("--list", help="Show the configurations.")] = False,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train and test published experiments by name; the same command again goes on where it was interrupted."""
    show = commands.Show(quiet, json)
    if list_names:
        reproduce.list_all(show)
        return
    if not names:
        raise Usage("reproduce: expected a name (see --list), got none.")
    reproduce.queue(names, data, out, minutes, show, threads)


@app.command("bench")
def _bench(
    tasks: Annotated[int, typer.Option(help="Tasks of a meta-step.")] = 32,
    inner_steps: Annotated[int, typer.Option(help="Inner steps.")] = 5,
    seconds: Annotated[float, typer.Option(help="Time to measure for.")] = 2.0,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Tasks per second of second-order MAML on this machine: a 1-40-40-1 net, 10 support and 10 query points."""
    commands.bench(tasks, inner_steps, seconds, threads=threads, show=commands.Show(False, json))


@app.command("info")
def _info(json: Json = False) -> None:
    """Versions, backends and why one is missing, threads, instruction set, cache folder."""
    commands.info(commands.Show(False, json))
