"""Runners: chosen by name, never by Beam; what is sent to workers is small and names the model."""

import pickle
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PortableOptions,
    PrismRunnerOptions,
    SparkRunnerOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.transforms.environments import DockerEnvironment

from components.bulk_inference.annotation.transforms import AnnotateUnit, AnnotateUnits
from components.bulk_inference.annotation.unit import JobSpec
from components.bulk_inference.config import BulkConfig, BulkJob, EngineConfig
from components.bulk_inference.job import run_bulk
from components.bulk_inference.model_card import read_card
from components.bulk_inference.planning.work_units import plan_units
from components.bulk_inference.running.engines import choose_engine
from components.image_sources.config import InputConfig
from components.image_sources.record_config import TFDSConfig
from tests.components.bulk_inference.archives import broken, digits, write_zip
from tests.components.bulk_inference.conftest import ReadTable, RunJob
from tests.numeric import assert_same_table
from trainer.errors import InputError

DATAFLOW = ("--project=p", "--region=europe-west4", "--temp_location=gs://b/tmp")


@pytest.fixture
def spec(model: Path, tmp_path: Path) -> JobSpec:
    archive = write_zip(tmp_path / "a.zip", digits(20))
    inputs = InputConfig(paths=(str(archive),))
    config = BulkJob(input=inputs, model=str(model), output="gs://bucket/out")
    return JobSpec(config, read_card(str(model)), workers=2)


def test_the_local_runner_is_named() -> None:
    engine = choose_engine(EngineConfig(workers=2), units=9)
    assert engine.options.view_as(StandardOptions).runner == "FnApiRunner"
    assert (engine.workers, engine.in_process) == (2, True)


def test_more_processes_divide_the_workers() -> None:
    engine = choose_engine(EngineConfig(workers=64), units=1000)
    assert engine.options.view_as(StandardOptions).runner.endswith(".ProcessRunner")
    assert engine.options.view_as(DirectOptions).direct_num_workers == 4
    assert (engine.workers, engine.in_process) == (16, False)
    assert choose_engine(EngineConfig(workers=64), units=1).in_process


def test_flink_on_a_laptop_and_on_a_cluster() -> None:
    local = choose_engine(EngineConfig(runner="flink", workers=2), units=9).options
    assert local.view_as(PortableOptions).environment_type == "LOOPBACK"
    assert local.view_as(FlinkRunnerOptions).flink_master == "[local]"
    cluster = EngineConfig(
        runner="flink", master="jm:8081", environment_config="localhost:50000", parallelism=8
    )
    options = choose_engine(cluster, units=9).options
    assert options.view_as(PortableOptions).environment_type == "EXTERNAL"
    assert options.view_as(PortableOptions).environment_config == "localhost:50000"


def test_masters_of_spark_and_prism(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spark = choose_engine(EngineConfig(runner="spark", master="spark://m:7077"), units=9).options
    assert spark.view_as(SparkRunnerOptions).spark_master_url == "spark://m:7077"
    assert spark.view_as(PortableOptions).environment_type == "EXTERNAL"
    prism = choose_engine(EngineConfig(runner="prism", master="localhost:8073"), units=9)
    assert prism.options.view_as(PortableOptions).job_endpoint == "localhost:8073"
    assert (prism.options.view_as(StandardOptions).runner, prism.in_process) == (
        "PrismRunner",
        True,
    )
    binary = tmp_path / "prism"
    binary.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    # With a location Beam looks for nothing to download.
    own = choose_engine(EngineConfig(runner="prism"), units=9).options
    assert own.view_as(PrismRunnerOptions).prism_location == str(binary)


def test_the_dataflow_proto_compiles_with_all_options(spec: JobSpec) -> None:
    config = EngineConfig(
        runner="dataflow",
        workers=4,
        environment_config="europe-docker.pkg.dev/p/r/vaeline-worker:1",
        region="europe-west4",
        options=(DATAFLOW[0], DATAFLOW[2], "--machine_type=n2-highcpu-16", "--max_num_workers=50"),
    )
    options = choose_engine(config, units=9).options
    assert options.view_as(GoogleCloudOptions).region == "europe-west4"
    assert options.view_as(WorkerOptions).machine_type == "n2-highcpu-16"
    # Built for a runner that asks no cloud service; the environment is Dataflow's.
    pipeline = beam.Pipeline(runner="FnApiRunner", options=options)
    units = list(plan_units(spec.config))
    _ = pipeline | beam.Create(units) | AnnotateUnits(spec)
    options.view_as(PortableOptions).environment_type = "DOCKER"
    options.view_as(PortableOptions).environment_config = config.environment_config
    environment = DockerEnvironment.from_options(options.view_as(PortableOptions))
    proto = pipeline.to_runner_api(default_environment=environment)
    names = [transform.unique_name for transform in proto.components.transforms.values()]
    assert "AnnotateUnits/AnnotateUnit" in names
    images = [each.payload for each in proto.components.environments.values()]
    assert any(b"vaeline-worker:1" in payload for payload in images)
    assert len(proto.SerializeToString()) < 100_000


def test_the_pickled_step_names_the_model_and_holds_none(spec: JobSpec, model: Path) -> None:
    step = pickler.dumps(AnnotateUnit(spec))
    weights = sum(path.stat().st_size for path in (model / "variables").iterdir())
    assert len(step) < min(20_000, weights)
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_workers_import_neither_tfx_nor_metadata_nor_validation() -> None:
    """And the module of the job, with which every command starts, not even TensorFlow or Beam."""
    code = (
        "import sys, components.bulk_inference.job\n"
        "early = {'tensorflow', 'apache_beam', 'matplotlib'} & set(sys.modules)\n"
        "from trainer.quick_imports import quick_imports\n"
        "with quick_imports():\n"
        "    import components.bulk_inference.annotation.transforms\n"
        "    import components.bulk_inference.planning.estimate\n"
        "    import components.bulk_inference.running.engines\n"
        "    import trainer.data.pixels, pipeline.cli, pipeline.config, pipeline.console\n"
        "    import pipeline.labelling\n"
        "heavy = {'tfx', 'ml_metadata', 'tensorflow_data_validation', 'tensorflow_transform'}\n"
        "print(sorted(early), sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


@pytest.mark.slow
def test_two_processes_give_the_same_table(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(100) | broken())
    run_job(archive)
    run_job(
        archive,
        output=str(tmp_path / "two"),
        engine=EngineConfig(workers=2, processes=2),
    )
    for part in ("table", "rejects"):
        expected = read_table(tmp_path / "out", part)
        assert_same_table(read_table(tmp_path / "two", part), expected)


def test_paths_of_a_job_do_not_depend_on_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "archives [2026]"
    here.mkdir()
    (here / "b[1].zip").touch()
    monkeypatch.chdir(here)
    given = ("a.zip", "./b[1].zip", "../c/", "*.tar", "/data/d.zip", "gs://b/e.zip", "tfds:mnist")
    config = BulkConfig(
        input=InputConfig(paths=given, tfds=TFDSConfig(data_dir="sets")), model="m", output="o"
    )
    job = BulkJob.of(config)
    assert job.input.paths == (
        f"{here}/a.zip",
        f"{here}/b[1].zip",
        f"{tmp_path}/c/",
        f"{tmp_path}/archives [[]2026]/*.tar",
        *given[4:],
    )
    assert (job.model, job.output) == (f"{here}/m", f"{here}/o")
    assert job.input.tfds.data_dir == f"{here}/sets"
    cloud = {"model": "gs://b/m", "output": "gs://b/o"}
    assert BulkJob.of(config.model_copy(update=cloud)).model == "gs://b/m"
    with pytest.raises(InputError, match="ftp:// is not supported"):
        run_bulk(config.model_copy(update={**cloud, "model": "ftp://b/m"}))
    assert BulkJob.of(job) == job


@pytest.mark.parametrize("key", ["input.paths", "model", "output"])
def test_dataflow_reads_no_path_of_this_machine(key: str) -> None:
    paths = {"input": "gs://b/a.zip", "model": "gs://b/m", "output": "gs://b/o"}
    paths[key.partition(".")[0]] = "here"
    config = BulkConfig(
        input=InputConfig(paths=(paths["input"],)),
        model=paths["model"],
        output=paths["output"],
        engine=EngineConfig(runner="dataflow", options=DATAFLOW),
    )
    with pytest.raises(InputError, match=rf"^bulk\.{key}: /.*/here is on this machine"):
        BulkJob.of(config)
