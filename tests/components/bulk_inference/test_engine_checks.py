"""What is wrong with a runner is told in one line, before anything starts."""

import importlib.util
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from google.auth.exceptions import DefaultCredentialsError

from components.bulk_inference.config import BulkConfig, EngineConfig
from components.bulk_inference.running import engine_checks
from components.bulk_inference.running.dask_cluster import DaskWorker
from components.bulk_inference.running.engine_checks import require_engine, worker_environment
from components.image_sources.config import InputConfig
from components.serving_check.server import free_port
from tests.components.bulk_inference.archives import digits, write_zip
from tests.components.bulk_inference.conftest import RunJob
from trainer.errors import InputError

DATAFLOW = ("--project=p", "--region=europe-west4", "--temp_location=gs://b/tmp")


def check(**engine: Any) -> None:
    require_engine(BulkConfig(engine=EngineConfig.model_validate(engine)))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Prism and Java."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def silent() -> str:
    """An address at which nothing listens."""
    return f"localhost:{free_port()}"


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            {"options": ("--direct_num_worker=2",)},
            "Beam has no option --direct_num_worker; did you mean --direct_num_workers?",
        ),
        ({"options": ("--direct-num-workers=2",)}, "did you mean --direct_num_workers?"),
        ({"options": ("--nothing_like_it",)}, "no option --nothing_like_it; leave it out"),
        ({"options": ("--experiments=a", "b=2")}, "b=2 is no option of Beam"),
        ({"options": ("--direct_num_workers=two",)}, "Beam refuses .*: invalid int value: 'two'"),
        ({"runner": "local", "master": "a:1"}, r"--master\): the runner local has none; leave it"),
        ({"runner": "flink", "region": "r"}, r"--region\): .* or choose dataflow with --runner"),
        ({"runner": "prism"}, "no program `prism` on PATH .* build it with `GOBIN=.* go install"),
        (
            {"runner": "prism", "options": ("--prism_location=/no/prism",)},
            "--prism_location=/no/prism does not exist",
        ),
        ({"runner": "dask"}, r"dask needs the address of its scheduler, tcp://HOST:8786"),
        ({"runner": "dask", "master": "cluster"}, "cluster is not an address of dask; give host"),
        ({"runner": "flink", "master": "jm:99999"}, "jm:99999 is not an address of flink; give"),
        ({"runner": "flink"}, "flink needs Beam's job server; fetch .*beam-runners-flink-1.20"),
        ({"runner": "spark"}, "spark needs Beam's job server; fetch .*beam-runners-spark-3"),
        (
            {"runner": "spark", "job_server_jar": __file__},
            "spark needs Java 17 .* install it, or name a running job server",
        ),
        ({"runner": "flink", "job_server_jar": "/no.jar"}, r"/no\.jar does not exist; fetch"),
        (
            {"runner": "dataflow", "options": (*DATAFLOW, "--runner=DirectRunner")},
            "--runner=DirectRunner contradicts .* dataflow; choose it with --runner, and leave",
        ),
        ({"options": ("--runner", "DataflowRunner")}, "--runner=DataflowRunner contradicts .* loc"),
        ({"runner": "dataflow", "options": DATAFLOW}, "Dataflow needs the image of the workers"),
        ({"runner": "dataflow"}, "Dataflow needs --project="),
        ({"runner": "dataflow", "options": DATAFLOW[:1]}, "Dataflow needs --region="),
        ({"runner": "dataflow", "options": DATAFLOW[:2]}, "Dataflow needs --temp_location="),
        (
            {"runner": "dataflow", "options": (*DATAFLOW[:2], "--temp_location=/tmp")},
            "--temp_location of Dataflow must be at gs://",
        ),
    ],
)
def test_what_is_missing_gets_one_line(bare: None, engine: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        check(**engine)
    assert "\n" not in str(raised.value)


def test_dataflow_without_credentials_does_not_wait_for_a_browser(
    bare: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> None:
        raise DefaultCredentialsError("none found")

    monkeypatch.setattr("google.auth.default", none)
    with pytest.raises(InputError, match="dataflow needs Google credentials; run `gcloud auth"):
        check(runner="dataflow", options=(*DATAFLOW, "--sdk_container_image=a"))


def test_runners_with_all_they_need_pass(
    bare: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check()
    monkeypatch.setattr("google.auth.default", lambda: (None, "p"))
    image, options = "europe-docker.pkg.dev/p/r/worker:1", (DATAFLOW[0], DATAFLOW[2])
    check(runner="dataflow", region="europe-west4", options=options, environment_config=image)
    apart = tuple(part for option in DATAFLOW for part in option.split("="))
    check(runner="dataflow", options=(*apart, "--setup_file=./setup.py"))
    check(runner="flink", options=("--job_endpoint=embed", "--an_option_of_java=1"))
    check(runner="flink", options=("--runner=PortableRunner", "--job_endpoint=embed"))
    check(options=("--direct_num_workers", "2", "--save_main_session", "--experiments=a"))
    (tmp_path / "prism").touch(mode=0o755)
    check(runner="prism")


@pytest.mark.parametrize("runner", ["prism", "dask", "flink"])
def test_a_master_that_does_not_answer_is_named(runner: str, silent: str) -> None:
    with pytest.raises(InputError, match=f"{runner} does not answer at {silent} .*; start"):
        check(runner=runner, master=silent)


@pytest.mark.parametrize(("runner", "module"), [("dask", "distributed"), ("dataflow", "apitools")])
def test_a_missing_package_is_named(
    runner: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else found(name)
    )
    with pytest.raises(InputError, match=rf"pip install 'vaeline\[{runner}\]'"):
        check(runner=runner)


def test_workers_of_a_master_elsewhere_need_a_pool() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        master = f"127.0.0.2:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="EXTERNAL needs environment_config"):
            check(runner="prism", master=master)
        check(runner="prism", master=master, environment_config="pool:50000")


def test_a_path_that_a_dask_worker_does_not_find_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look(scheduler: str, paths: Iterable[str]) -> list[DaskWorker]:
        assert list(paths) == ["/models/1", "/out", "/data/a.zip"]
        return [DaskWorker("tcp://w:1", 1, ()), DaskWorker("tcp://w:2", 1, ("/out",))]

    monkeypatch.setattr(engine_checks, "look_at_workers", look)
    with socket.create_server(("127.0.0.1", 0)) as server:
        engine = EngineConfig(runner="dask", master=f"127.0.0.1:{server.getsockname()[1]}")
        paths = ("/data/a.zip", "/data/*.tar", "gs://b/a.zip")
        config = BulkConfig(
            input=InputConfig(paths=paths), model="/models/1", output="/out", engine=engine
        )
        with pytest.raises(InputError, match=r"^bulk\.output: /out is not there on .* tcp://w:2;"):
            require_engine(config)


def test_the_options_of_dask_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_checks, "look_at_workers", lambda scheduler, paths: [])
    with socket.create_server(("127.0.0.1", 0)) as server:
        master = f"127.0.0.1:{server.getsockname()[1]}"
        check(runner="dask", master=master, options=("--dask_partition_size=2",))
        with pytest.raises(InputError, match="did you mean --dask_partition_size"):
            check(runner="dask", master=master, options=("--dask_partitions_size=2",))


@pytest.mark.parametrize(
    ("master", "environment"),
    [
        ("", "LOOPBACK"),
        ("[local]", "LOOPBACK"),
        ("local[4]", "LOOPBACK"),
        ("localhost:8081", "LOOPBACK"),
        ("spark://127.0.0.1:7077", "LOOPBACK"),
        ("local.example.org:8081", "EXTERNAL"),
        ("spark://m:7077", "EXTERNAL"),
    ],
)
def test_workers_are_threads_of_this_process_if_the_master_is_here(
    master: str, environment: str
) -> None:
    assert worker_environment(EngineConfig(master=master)) == environment


def test_an_output_is_not_touched_when_the_runner_cannot_be_used(
    tmp_path: Path, run_job: RunJob, silent: str
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(20))
    run_job(archive)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="does not answer"):
        run_job(archive, engine=EngineConfig(runner="dask", master=silent), overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before
