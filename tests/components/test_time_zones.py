"""Systems without time zones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.time_zones import provide_time_zones

_QUERY = """
from components.time_zones import provide_time_zones
from ml_metadata import proto
from ml_metadata.metadata_store import metadata_store

provide_time_zones()
connection = proto.ConnectionConfig(fake_database=proto.FakeDatabaseConfig())
store = metadata_store.MetadataStore(connection)
options = metadata_store.ListOptions(filter_query='name = "no such run"')
print(store.get_executions(list_options=options))
"""


def _query(zones: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _QUERY],
        env={**os.environ, "TZDIR": str(zones)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_metadata_can_be_queried_without_time_zones_of_the_system(tmp_path: Path) -> None:
    done = _query(tmp_path)
    if "filter_query is not supported" in done.stderr:
        pytest.skip("this ML Metadata has no queries, and asks for no time zones")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[]"]


def test_the_api_of_tfx_provides_time_zones_first() -> None:
    # An import of TFX in a process of its own takes 8 s.
    text = (Path(__file__).parents[2] / "components" / "tfx_api.py").read_text(encoding="utf-8")
    assert -1 < text.find("\nprovide_time_zones()\n") < text.find("\nfrom tfx import v1 as tfx")


def test_time_zones_of_the_system_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "America").mkdir()
    (tmp_path / "America" / "Los_Angeles").touch()
    monkeypatch.setenv("TZDIR", str(tmp_path))
    provide_time_zones()
    assert os.environ["TZDIR"] == str(tmp_path)
