"""Defines the command group `vaeline`.

Commands import TensorFlow, Beam and TFX only when they run, so that `vaeline --help` takes 0.1 s.
"""

from typing import Any

import click

from pipeline.cli.bulk import classify, embed
from pipeline.cli.cluster import compile_, submit
from pipeline.cli.config import config
from pipeline.cli.doctor import doctor
from pipeline.cli.explain import explain
from pipeline.cli.gc import gc
from pipeline.cli.inspect import inspect_
from pipeline.cli.models import models
from pipeline.cli.predict import predict
from pipeline.cli.report import report, sample
from pipeline.cli.review import reviews
from pipeline.cli.run import demo, retrain, run
from pipeline.cli.runs import runs
from pipeline.cli.schedule import schedule
from pipeline.standard_output import exit_code, protect_standard_output
from trainer.process_end import finalize_s3_at_exit

_COMMANDS: tuple[click.Command, ...] = (
    classify,
    compile_,
    config,
    demo,
    doctor,
    embed,
    explain,
    gc,
    inspect_,
    models,
    predict,
    report,
    retrain,
    reviews,
    run,
    runs,
    sample,
    schedule,
    submit,
)


class _Vaeline(click.Group):
    """Ends the process with the exit code of the command, or of a lost output."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Runs the command of the command line."""
        protect_standard_output()
        finalize_s3_at_exit()
        try:
            return super().main(*arguments, **options)
        except SystemExit as ended:
            raise SystemExit(exit_code(ended.code)) from None


@click.group(
    cls=_Vaeline, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="vaeline")
def main() -> None:
    """Archives of images in; a served classifier and labelled archives out.

    Start with `vaeline demo`, then write a configuration for your own images
    (docs/configuration.md) and `vaeline run --config FILE --root DIR`.
    """


for _command in _COMMANDS:
    main.add_command(_command)
