"""Defines `vaeline explain`: a row of a table, what it rests on, whether it comes out again."""

import os
from pathlib import Path
from typing import Any

import click

from pipeline.cli.command import common

_SHOWN = 8


@click.command()
@click.argument("output")
@click.argument("key")
@click.option("--page", default="", metavar="FILE", help="Also write a page with pictures.")
@common
def explain(terminal: Any, output: str, key: str, page: str) -> int:
    """Explain the row with KEY, or the only one whose key ends so, in the table of OUTPUT.

    Fetches the image from its archive, runs it again with the recorded model, compares the columns,
    and finds the nearest images of the table.
    """
    from pipeline.console import captured_output

    # TensorFlow prints many messages while it starts.
    with terminal.live("asking the model"), captured_output(Path(os.devnull)):
        from components.review.explanation import explain_row
        from pipeline.report.explanation_page import shown, write_explanation

        explanation = explain_row(output, key)
        if page:
            write_explanation(output, explanation, page)
    rows = [
        (cell.column, shown(cell.recorded), "the same" if cell.is_same else shown(cell.now))
        for cell in explanation.cells
    ]
    terminal.table(explanation.row["key"], rows, header=("column", "in the table", "computed now"))
    terminal.say(explanation.line(), style=None if explanation.is_same else "yellow")
    changed = [
        f"{name} {then} then, {now} now"
        for name, (then, now) in explanation.libraries.items()
        if then and then != now
    ]
    if changed:
        terminal.say(f"other versions: {', '.join(changed)}")
    for row in explanation.neighbours[:_SHOWN]:
        terminal.say(f"near: {row['key']}, {row['label']}, distance {row['distance']:.2f}")
    if page:
        terminal.say(f"page: {page}")
    terminal.result(
        {
            "key": explanation.row["key"],
            "same": explanation.is_same,
            "line": explanation.line(),
            "columns": {
                cell.column: {"recorded": cell.recorded, "now": cell.now, "same": cell.is_same}
                for cell in explanation.cells
            },
            "libraries": explanation.libraries,
            "neighbours": explanation.neighbours,
            "page": page,
        }
    )
    return 0
