"""Defines the configuration tree: one YAML file, validated once and then frozen.

The command line loads it and passes on its parts; the packages that use a section define it.
"""

import copy
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from components.bulk_inference.config import (
    CLASSIFY_COLUMNS,
    DECODER_COLUMNS,
    EMBED_COLUMNS,
    BulkConfig,
)
from components.image_sources.config import InputConfig
from components.model_gate.config import EvaluationConfig
from components.model_push.config import PushConfig
from components.retraining.config import RetrainConfig
from components.serving_check.config import ServingCheckConfig
from pipeline.digests import project_root
from pipeline.orchestration.config import ClusterConfig, ScheduleConfig
from pipeline.report.config import ReportConfig
from trainer.config import ImageConfig, ModelConfig, TrainerConfig, check_consistent
from trainer.config_faults import config_faults, read_tree, yaml_fault
from trainer.errors import UserError
from trainer.options import Section
from trainer.recipes import RecipeName, apply_recipe
from trainer.storage.addresses import names_bucket
from trainer.yaml_text import parse_yaml

_ROOT_PLACEHOLDER = "{root}"
_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_JOB_SERVER_JARS = {"flinkrunner": "flink_job_server_jar", "sparkrunner": "spark_job_server_jar"}
"""Beam's options that name the programs which these runners start, by runner in small letters."""

_Tree = TypeVar("_Tree", bound=BaseModel)


class ConfigError(UserError, ValueError):
    """Reports an invalid configuration; the message has one line for each fault."""


class SchemaConfig(Section):
    """Where the schema comes from."""

    path: str | None = Field(
        default=None,
        description="folder or file of a curated TFMD schema (schema.pbtxt); "
        "without it SchemaGen infers one from the training split; on a cluster, whose cache sees"
        " only the path, give an edited schema another name",
    )


class StatisticsConfig(Section):
    """What TFDV looks at."""

    splits: tuple[Literal["train", "validation", "calibration", "test", "unlabelled"], ...] = Field(
        default=("train", "test"),
        description="splits with statistics and a search for anomalies; train has to be "
        "among them. Validation and calibration are drawn from train by a hash, unless the "
        "source names them; each split costs one to two seconds",
    )

    @field_validator("splits")
    @classmethod
    def _with_train(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if "train" not in splits:
            raise ValueError("train is missing: the schema is inferred from it")
        return splits


class BeamConfig(Section):
    """How the pipeline's Beam steps run."""

    args: tuple[str, ...] = Field(
        default=(
            "--runner=FnApiRunner",
            "--direct_running_mode=in_memory",
            "--sdk_container_image=none",
        ),
        description="Beam options of the steps. The runner is named because Beam's default, "
        "DirectRunner, first tries to download Prism; an image is named, which a runner in this "
        "process never looks at, because TFX else packs its own source for the workers at each "
        "step, which takes a second",
    )

    @field_validator("args")
    @classmethod
    def _are_options(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        given: dict[str, str] = {}
        name = ""
        for arg in args:
            if arg.startswith("--"):
                name, has_value, value = arg.removeprefix("--").partition("=")
                given[name] = value
                name = "" if has_value else name
            elif name:
                given[name], name = arg, ""
            else:
                # Beam would ignore it.
                raise ValueError(f"{arg} is no option of Beam, such as --direct_num_workers=2")
        jar = _JOB_SERVER_JARS.get(given.get("runner", "").lower())
        if jar and not given.keys() & {jar, "job_endpoint"}:
            # Beam would download it.
            raise ValueError(
                f"{given['runner']} needs Beam's job server: --{jar}=FILE, of Beam's version from"
                " Maven, or --job_endpoint=HOST:PORT of one that runs"
            )
        return args


class PipelineConfig(Section):
    """Everything that a run needs to know."""

    name: str = Field(
        default="vaeline",
        description="names the pipeline in the metadata; small letters, digits and hyphens",
    )
    recipe: RecipeName = Field(
        default="auto",
        description="measured options for every option of model and trainer that is not set. auto: "
        "with encoder conv, conv_grey or conv_colour by the image's channels, conv_photos from "
        "64x64 pixels; otherwise none",
    )
    input: InputConfig
    image: ImageConfig = ImageConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    data_schema: SchemaConfig = Field(default=SchemaConfig(), alias="schema")
    model: ModelConfig = ModelConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving_check: ServingCheckConfig = ServingCheckConfig()
    push: PushConfig = PushConfig()
    bulk: BulkConfig = BulkConfig()
    report: ReportConfig = ReportConfig()
    beam: BeamConfig = BeamConfig()
    retrain: RetrainConfig = RetrainConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    cluster: ClusterConfig | None = Field(
        default=None, description="where the pipeline runs if not on this machine"
    )
    cache: bool = Field(default=True, description="reuse steps whose inputs did not change")
    parallel_steps: int = Field(
        default=2,
        ge=1,
        le=2,
        description="steps that `vaeline run` executes at a time: 2 runs ServingCheck beside "
        "Evaluator and ModelGate, which takes the memory of both, and starts its process (0.2 GiB) "
        "beside the Trainer; 1 runs one after the other",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_recipe(cls, tree: Any) -> Any:
        return apply_recipe(tree)

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        # Vertex and Kubernetes make names of resources from it, which may not end in a hyphen.
        if not _NAME.fullmatch(name):
            expected = "1 to 63 small letters, digits and hyphens, a letter first, no hyphen last"
            raise ValueError(f"expected {expected}")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_consistent(self.image, self.model, self.trainer)
        if self.evaluation.labelled_only != "off":
            self._check_comparison()
        if self.bulk.in_pipeline and self.bulk.input is None:
            raise ValueError(
                "bulk.in_pipeline: there is nothing to label; name archives in bulk.input.paths"
            )
        return self

    def _check_comparison(self) -> None:
        if not self.trainer.learns_unlabelled:
            reason = "the training uses no unlabelled images; see trainer.semi_supervised.enabled"
        elif not self.trainer.objective.alpha:
            reason = "trainer.objective.alpha is 0, so there is no classifier to compare"
        elif self.trainer.warm_start:
            reason = "trainer.warm_start begins with what was learned from unlabelled images"
        else:
            return
        raise ValueError(f"evaluation.labelled_only: {reason}; set it to off")


def load_config(
    path: str, *, overrides: Iterable[str] = (), root: Path | str | None = None
) -> PipelineConfig:
    """Reads a configuration.

    Args:
        path: YAML file, or the name of a preset in configs/ (`digits`).
        overrides: `key.path=value` each, the value in YAML; later ones take precedence.
        root: replacement for `{root}` in any value: a folder, or an address in a bucket.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or is not a valid configuration.
    """
    file = find_config(path)
    try:
        tree = read_tree(file)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for override in overrides:
        _apply_override(tree, override)
    config = parse_config(tree, source=str(file))
    if root is None:
        return config
    # After the validation, because defaults contain the placeholder, too.
    place = str(root)
    if not names_bucket(place):
        place = str(Path(place).resolve())
    filled = _replace_root(config.model_dump(mode="json", by_alias=True), place)
    return parse_config(filled, source=str(file))


def parse_config(tree: Mapping[str, Any], *, source: str = "configuration") -> PipelineConfig:
    """Validates a tree of plain values; the error's lines start with `source`.

    Raises:
        ConfigError: A key is invalid; the message has a line for each such key.
    """
    return _validate(PipelineConfig, tree, source)


def parse_bulk(
    tree: dict[str, Any],
    *,
    overrides: Iterable[str] = (),
    embed_only: bool = False,
    fast: bool = False,
) -> BulkConfig:
    """Builds the configuration of one bulk job from the options of the command line.

    Args:
        tree: The `bulk:` section as plain values; input, model and output are set.
        overrides: `key.path=value` each, with `bulk.` before it or without; they take precedence.
        embed_only: Whether to write the columns of `vaeline embed`.
        fast: Whether to leave out the columns that need the decoder.

    Returns:
        The validated section.

    Raises:
        ConfigError: A key is invalid; the message has a line for each such key.
    """
    tree = copy.deepcopy(tree)
    if embed_only or fast:
        columns = EMBED_COLUMNS if embed_only else CLASSIFY_COLUMNS
        tree["columns"] = [name for name in columns if not fast or name not in DECODER_COLUMNS]
    for override in overrides:
        # Messages and documentation name keys with their section.
        _apply_override(tree, override.removeprefix("bulk."))
    return _validate(BulkConfig, tree, "bulk")


def parse_input(paths: Iterable[str], *, overrides: Iterable[str] = ()) -> InputConfig:
    """Builds the `input:` section from the paths on the command line.

    Args:
        paths: Paths of the input.
        overrides: `input.key=value` each, as for a whole configuration.

    Raises:
        ConfigError: A key is invalid; the message has a line for each such key.
    """
    tree: dict[str, Any] = {"input": {"paths": list(paths)}}
    for override in overrides:
        _apply_override(tree, override)
    unknown = sorted(set(tree) - {"input"})
    if unknown:
        raise ConfigError(f"--set {unknown[0]}: without --config only keys of input can be set")
    return _validate(InputConfig, tree["input"], "input")


def to_yaml(config: PipelineConfig) -> str:
    """Formats the whole tree, including defaults, as YAML that can be loaded again."""
    tree = config.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def find_config(path: str) -> Path:
    """Finds a configuration file by path, or by the name of a preset.

    Raises:
        ConfigError: Neither exists.
    """
    # A folder of images may have the name of a preset.
    if Path(path).exists() and not Path(path).is_dir():
        return Path(path)
    folders = (Path(sys.prefix) / "share" / "vaeline" / "configs", project_root() / "configs")
    presets = {file.stem: file for folder in folders for file in folder.glob("*.yaml")}
    if path in presets:
        return presets[path]
    fault = "is a folder" if Path(path).is_dir() else "no such file"
    listed = ", ".join(sorted(presets)) or "not installed"
    raise ConfigError(f"{path}: {fault}; presets are {listed}")


def _validate(model: type[_Tree], tree: Mapping[str, Any], source: str) -> _Tree:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(config_faults(error, source, model))) from error


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected KEY=VALUE, as in --set trainer.epochs=3")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {yaml_fault(error)}") from error
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: {parent} is a value and has no keys")
    node[last] = value


def _replace_root(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return {key: _replace_root(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_root(item, root) for item in value]
    if isinstance(value, str):
        return value.replace(_ROOT_PLACEHOLDER, root)
    return value
