"""Defines `vaeline models`: pushed versions listed, named, rolled back and pruned."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.command import common

if TYPE_CHECKING:
    # For types only, because the module imports pydantic, which is slow.
    from components.model_push.versions import Version

_HEADER = ("version", "", "pushed", "by", "from", "metrics", "size")
# Metrics of the table, if a record has them under any of the names that evaluations have used.
_SHOWN_METRICS = {
    "accuracy": ("sparse_categorical_accuracy", "accuracy"),
    "log loss": ("sparse_categorical_crossentropy", "log_loss"),
}


@click.group()
def models() -> None:
    """List, name, roll back and prune pushed models; see docs/serving.md.

    DIRECTORY is what models are pushed to (push.directory): a folder, or an
    address at gs://, s3:// or minio://.
    """


@models.command("list")
@click.argument("directory")
@common
def list_models(terminal: Any, directory: str) -> int:
    """Show the versions: which is served, who pushed it, from which data, how good."""
    from components.model_push.management import aliases_by_version, open_store, served_version

    store = open_store(directory)
    served = served_version(store)
    versions = store.versions()
    taken_back = {version.record.rolled_back_from for version in versions}
    aliases = aliases_by_version(store)
    terminal.table(
        f"models in {store.address}",
        [
            _row(version, served.number, taken_back, aliases.get(version.number, []))
            for version in reversed(versions)
        ],
        header=_HEADER,
    )
    latest = store.latest()
    if latest != served.number:
        terminal.say(
            f"served is {served.number}, but `latest` names {latest or 'nothing'}, as after a push"
            " that was stopped; the next push or rollback repairs it",
            style="yellow",
        )
    for number in sorted(aliases.keys() - {version.number for version in store.complete()}):
        names = ", ".join(aliases[number])
        terminal.say(f"{names}: names version {number}, which is not there", style="yellow")
    terminal.result(
        {
            "directory": store.address,
            "served": served.number,
            "latest": latest,
            "aliases": {name: asdict(alias) for name, alias in store.aliases().items()},
            "versions": [_as_dict(version) for version in versions],
        }
    )
    return 0


@models.command("alias")
@click.argument("directory")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--remove", is_flag=True, help="Remove the alias; its version stays.")
@click.option("--user", default="", help="Who is recorded; by default the account's name.")
@common
def alias_model(
    terminal: Any, directory: str, name: str, version: str | None, remove: bool, user: str
) -> int:
    """Let NAME refer to VERSION: a number, another alias or `latest`."""
    from components.model_push.management import find_version, open_store, remove_alias, set_alias
    from trainer.errors import InputError

    if remove == (version is not None):
        raise InputError(f"{name}: give either VERSION or --remove")
    store = open_store(directory)
    if version is None:
        alias = remove_alias(store, name)
        terminal.say(f"removed {name}, which named version {alias.version}")
    else:
        alias = set_alias(store, name, find_version(store, version).number, user=user)
        before = f" in place of {alias.replaced}" if alias.replaced else ""
        terminal.say(f"{store.address}@{name} is version {alias.version}{before}")
    terminal.result({"directory": store.address, **asdict(alias)})
    return 0


@models.command("serving-config")
@click.argument("directory")
@click.option("--name", default="vaeline", show_default=True, help="The model's name on servers.")
@click.option("--base-path", help="Where servers find DIRECTORY; by default the same place.")
@click.option("--output", help="The file to write; by default the text goes to stdout.")
@common
def serving_config(
    terminal: Any, directory: str, name: str, base_path: str | None, output: str | None
) -> int:
    """Write TF Serving's model config file, with the aliases as version labels."""
    from components.model_push.management import open_store
    from components.model_push.serving_config import model_server_config
    from trainer.storage import files

    store = open_store(directory)
    text = model_server_config(store, name=name, base_path=base_path or "")
    if output:
        files.write_bytes(output, text.encode())
        terminal.say(f"written: {output}")
    else:
        click.echo(text, nl=False)
    terminal.result({"directory": store.address, "output": output, "text": text})
    return 0


@models.command()
@click.argument("directory")
@click.option("--to", metavar="VERSION",
              help="Number or alias; by default the model served before this one.")  # fmt: skip
@click.option("--user", default="", help="Who is recorded; by default the account's name.")
@common
def rollback(terminal: Any, directory: str, to: str | None, user: str) -> int:
    """Serve an earlier model again, as a new version with its files."""
    from components.model_push.management import find_version, open_store, roll_back

    store = open_store(directory)
    made = roll_back(store, to=find_version(store, to).number if to else None, user=user)
    record = made.record
    terminal.say(
        f"version {made.number} is served now: the model of {record.copy_of}, in place of"
        f" {record.rolled_back_from}"
    )
    if note := store.readers_note(made):
        terminal.say(note, style="yellow")
    terminal.result(_as_dict(made))
    return 0


@models.command()
@click.argument("directory")
@click.option("--keep", type=int, required=True, help="How many of the newest versions stay.")
@click.option("--yes", is_flag=True, help="Do it; without this nothing is removed.")
@common
def prune(terminal: Any, directory: str, keep: int, yes: bool) -> int:
    """Remove old versions, never the served one or one that has an alias."""
    from components.model_push.management import (
        aliases_by_version,
        open_store,
        prunable,
        served_version,
    )

    store = open_store(directory)
    served = served_version(store)
    doomed = prunable(store, keep=keep)
    aliases = aliases_by_version(store)
    kept = {version.number: aliases[version.number] for version in store.complete()[:-keep]
            if version.number in aliases}  # fmt: skip
    size = sum(version.size for version in doomed)
    numbers = [version.number for version in doomed]
    if yes:
        store.remove(numbers)
    named = ", ".join(map(str, numbers)) or "nothing"
    verb = "removed" if yes else "would remove"
    hint = "" if yes or not doomed else "; do it with --yes"
    terminal.say(f"{verb} {named} ({_size(size)}); {served.number} is served{hint}")
    for number, names in kept.items():
        terminal.say(f"{number} is kept, because it is {', '.join(names)}")
    terminal.result(
        {
            "directory": store.address,
            "served": served.number,
            "removed" if yes else "would_remove": numbers,
            "bytes": size,
            "kept": kept,
        }
    )
    return 0


def _row(
    version: "Version", served: int, taken_back: set[int | None], names: list[str]
) -> tuple[str, ...]:
    record = version.record
    states = list(names)
    if version.number == served:
        states.append("served")
    if not version.complete:
        states.append("INCOMPLETE")
    if record.copy_of is not None:
        states.append(f"model of {record.copy_of}")
    if version.number in taken_back:
        states.append("rolled back")
    by = f"{record.user}@{record.host}" if record.user else "unknown"
    source = ", ".join(record.sources)
    images = record.images.get("train")
    if images:
        source += f" ({images:,} train)"
    metrics = [
        f"{title} {record.metrics[name]:.4f}"
        for title, aliases in _SHOWN_METRICS.items()
        for name in aliases
        if name in record.metrics
    ]
    return (
        str(version.number),
        ", ".join(states),
        record.pushed_at or "unknown",
        by,
        source or "unknown",
        ", ".join(metrics) or "unknown",
        _size(version.size),
    )


def _as_dict(version: "Version") -> dict[str, Any]:
    return {
        "version": version.number,
        "path": version.path,
        "complete": version.complete,
        "bytes": version.size,
        **{key: value for key, value in asdict(version.record).items() if key != "version"},
    }


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
