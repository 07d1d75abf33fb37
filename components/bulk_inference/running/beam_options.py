"""Refuses options that Beam does not know, of which Beam itself only logs a warning.

`engine_checks.py` calls it for bulk jobs, and the command that runs the pipeline for `beam.args`.
"""

import contextlib
import difflib
import io
import re
from collections.abc import Sequence

from trainer.errors import InputError


def require_known_options(key: str, options: Sequence[str], *, others_read_them: bool) -> None:
    """Checks names and values of Beam options. It imports Beam, if there are any.

    Args:
        key: The key of the configuration that holds them, for messages.
        options: Options as on Beam's command line.
        others_read_them: Whether a job server in another language has options of its own, so that
            only values can be checked.

    Raises:
        InputError: if an option has no such name, or its value is of another kind.
    """
    if not options:
        return
    before = ""
    for option in options:
        takes_value = before.startswith("--") and "=" not in before
        if not option.startswith("--") and not takes_value:
            raise InputError(
                f"{key}: {option} is no option of Beam, such as --direct_num_workers=2"
            )
        before = option
    from apache_beam.options.pipeline_options import PipelineOptions

    said = io.StringIO()
    helped: list[str] = []
    try:
        with contextlib.redirect_stderr(said):
            PipelineOptions(list(options)).get_all_options(
                add_extra_args_fn=lambda parser: helped.append(parser.format_help())
            )
    except SystemExit as error:
        # Behind the usage of hundreds of options.
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise InputError(f"{key}: Beam refuses {reason}") from error
    if others_read_them:
        return
    known = sorted(set(re.findall(r"--(\w+)", helped[0])))
    names = [option.partition("=")[0][2:] for option in options if option.startswith("--")]
    for name in names:
        if name not in known:
            alike = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
            hint = f"did you mean --{alike[0]}?" if alike else "leave it out"
            raise InputError(f"{key}: Beam has no option --{name}; {hint}")
