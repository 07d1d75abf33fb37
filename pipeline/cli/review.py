"""Defines `vaeline review`: which labels of a table people should check, and what they answered."""

from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.command import common

if TYPE_CHECKING:
    # For types only, because the module imports pydantic, which is slow.
    from components.review.queue_file import QueueFacts, QueueRow

_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.group("review")
def reviews() -> None:
    """Review the doubtful labels of a table; see docs/review.md.

    OUTPUT is the folder of a finished `vaeline classify`.
    """


@reviews.command("create")
@click.argument("output")
@click.option("--risk", type=_SHARE, default=0.01, show_default=True,
              help="Share of wrong labels allowed among those not reviewed.")  # fmt: skip
@click.option("--confidence", type=_SHARE, default=0.95, show_default=True,
              help="How sure that the share is kept.")  # fmt: skip
@click.option("--most", type=click.IntRange(min=0), default=10_000, show_default=True,
              help="List at most this many images, the most doubtful first.")  # fmt: skip
@click.option("--audit", type=click.IntRange(min=0), default=0, show_default=True,
              help="Also list this many images at random of those not to be reviewed.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a queue that has answers.")
@common
def create_review(terminal: Any, output: str, **options: Any) -> int:
    """List the images to check: review/queue.csv and review/queue.html.

    Says how many labels are correct without review, or why that can't be said.
    """
    from components.review.queue import create_queue

    return _show(terminal, output, *create_queue(output, **options))


def _show(terminal: Any, output: str, facts: "QueueFacts", rows: "list[QueueRow]") -> int:
    from dataclasses import asdict

    from pipeline.report.review_page import write_review_page

    page = write_review_page(output, facts, rows)
    terminal.say(facts.line(), style="yellow" if facts.no_promise else None)
    listed = sum(facts.listed.values())
    terminal.say(f"{listed:,} images in {page.queue}; {page.shown:,} of them in {page.path}")
    terminal.result({"queue": page.queue, "page": page.path, "shown": page.shown, **asdict(facts)})
    return 0


@reviews.command("labels")
@click.argument("output")
@click.option("--most", type=click.IntRange(min=1), default=1_000, show_default=True,
              help="List at most this many images, the most doubtful first.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a queue that has answers.")
@common
def review_labels(terminal: Any, output: str, **options: Any) -> int:
    """List the labels of the archive itself that are probably wrong.

    Ranks all of them in review/label_errors.parquet, and lists the first ones in review/queue.csv
    and review/queue.html.
    """
    from components.review.label_errors import create_label_queue

    return _show(terminal, output, *create_label_queue(output, **options))


@reviews.command("mix")
@click.argument("output")
@common
def review_mix(terminal: Any, output: str) -> int:
    """Estimate the archive's class mix, and adjust the labels to it: adjusted/table.

    For archives that hold other shares of the classes than the training data, but images of each
    class that are alike.
    """
    from components.review.class_mix import adjust_labels
    from trainer.name_lists import named

    mix = adjust_labels(output)
    unknown = [name for name, low in mix.low.items() if low is None]
    rows = [
        (
            name,
            f"{share:.3f}",
            f"{mix.predicted[name]:.3f}",
            f"{mix.estimated[name]:.3f}",
            "-" if name in unknown else f"{mix.low[name]:.3f} to {mix.high[name]:.3f}",
        )
        for name, share in mix.trained.items()
    ]
    header = ("class", "training", "labels", "estimated", "95 % interval")
    terminal.table("class mix", rows, header=header)
    if unknown:
        terminal.say(
            f"no interval for {named(unknown, most=5)}: no held-out images show how the model errs"
            " on them. If the archive has many such images, the other intervals do not hold either;"
            " enlarge the calibration split (input.splits)",
            style="yellow",
        )
    if not mix.is_shifted:
        terminal.say(
            f"the mix is that of the training data, as far as {mix.held_out:,} held-out images can"
            " tell"
        )
    terminal.say(
        f"{mix.changed:,} of {mix.images:,} labels change with it: {output}/adjusted/table"
    )
    terminal.result(mix.as_dict())
    return 0


@reviews.command("apply")
@click.argument("output")
@click.argument("answers", nargs=-1)
@click.option("--reviewer", default="", help="Recorded where a row names nobody.")
@click.option("--new-labels", is_flag=True,
              help="Accept labels that the model does not know.")  # fmt: skip
@common
def apply_review(terminal: Any, output: str, answers: tuple[str, ...], **options: Any) -> int:
    """Take ANSWERS into the table; by default those in review/queue.csv.

    Writes reviewed/table with the final labels, and reviewed/labels.csv, a manifest of the images
    with answers for the next `vaeline run`.
    """
    from components.review.answers import apply_answers

    result = apply_answers(output, answers, **options)
    terminal.say(
        f"{result.answered:,} answers: {result.changed:,} labels were wrong,"
        f" {result.not_usable:,} images belong to no class; table in {result.table}"
    )
    if result.missing:
        terminal.say(
            f"{result.missing:,} of these images could not be fetched for {result.manifest}: are"
            " the archives where they were?",
            style="yellow",
        )
    terminal.say(result.line)
    terminal.result(result.as_dict())
    return 0
