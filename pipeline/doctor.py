"""Examines this machine: versions, devices and engines, and what is missing for which feature."""

import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from components.bulk_inference.config import EngineConfig
from components.bulk_inference.running.engine_checks import BUILD_PRISM, find_prism
from trainer.cores import usable_cores
from trainer.errors import InputError

_COMMAND_LIMIT_SECS = 20
# Minimum glibc of the wheels of the newer stack.
_NEW_STACK_GLIBC = (2, 39)
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: name of the checked item.
        found: version or description; empty if it is missing.
        purpose: features that need it.
        required: whether vaeline cannot run without it.
        remedy: how to get it; empty if it was found.
    """

    name: str
    found: str
    purpose: str
    required: bool = False
    remedy: str = ""


def examine() -> list[Finding]:
    """Checks for everything that any part of vaeline uses.

    Returns:
        The findings, the required ones first.
    """
    return [*_libraries(), *_machine(), *_engines()]


def is_healthy(findings: list[Finding]) -> bool:
    """Tells whether everything that is required was found."""
    return all(finding.found for finding in findings if finding.required)


def as_dict(findings: list[Finding]) -> dict[str, Any]:
    """Returns the findings by name as JSON-compatible values."""
    return {finding.name: asdict(finding) for finding in findings}


def _libraries() -> list[Finding]:
    glibc = tuple(int(part) for part in (platform.libc_ver()[1] or "0.0").split(".")[:2])
    extra = "tfx121" if glibc >= _NEW_STACK_GLIBC else "tfx116"
    install = f"make install, or pip install '.[{extra}]'"
    purposes = {
        "tensorflow": "training and serving",
        "keras": "the model",
        "apache-beam": "ingest and bulk jobs",
        "pyarrow": "tables",
        "opencv-python-headless": "decoding",
        "tfx": "the pipeline (bulk jobs do without)",
        "tensorflow-datasets": "input from tfds:",
        "google-cloud-storage": "input and output at gs://",
        "boto3": "input and output at s3://",
        "pillow-heif": "photos of telephones (HEIC)",
        "tensorflow-serving-api": "asking model servers over gRPC",
        "google-cloud-aiplatform": "pushing to a Vertex endpoint",
    }
    optional = {
        "tfx",
        "tensorflow-datasets",
        "google-cloud-storage",
        "boto3",
        "pillow-heif",
        "tensorflow-serving-api",
        "google-cloud-aiplatform",
    }
    findings = [
        Finding("python", platform.python_version(), "everything", required=True),
        Finding("C library", " ".join(platform.libc_ver()), f"stack {extra} fits it"),
    ]
    for name, purpose in purposes.items():
        version = _version(name)
        remedy = f"pip install {name}" if name in ("boto3", "pillow-heif") else install
        findings.append(
            Finding(name, version, purpose, name not in optional, "" if version else remedy)
        )
    return findings


def _machine() -> list[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = _gpus()
    return [
        Finding("cores", str(usable_cores()), "decoding, Beam workers", True),
        Finding("memory", f"{memory:.1f} GiB", "decoded images while training", True),
        Finding("CPU instructions", " ".join(_cpu_flags()), "bfloat16 needs avx512_bf16 or amx"),
        Finding(
            "GPUs",
            gpus,
            "faster training",
            remedy="" if gpus else "none visible to TensorFlow; training runs on the CPU",
        ),
    ]


def _engines() -> list[Finding]:
    java = _first_line(["java", "-version"])
    jar = _flink_jar()
    server = shutil.which("tensorflow_model_server") or ""
    credentials = _credentials()
    prism = _prism()
    dask = _version("distributed")
    return [
        Finding("local Beam runner", _version("apache-beam"), "bulk jobs on this machine", True),
        Finding("prism", prism, "bulk jobs on Prism", remedy="" if prism else BUILD_PRISM),
        Finding(
            "dask",
            dask,
            "bulk jobs on a Dask cluster",
            remedy="" if dask else "pip install 'vaeline[dask]'",
        ),
        Finding(
            "java",
            java,
            "bulk jobs on Flink and Spark",
            remedy="" if java else "install Java 17",
        ),
        Finding(
            "Flink job server",
            jar,
            "bulk jobs on Flink",
            remedy=""
            if jar
            else "Maven Central: org.apache.beam:beam-runners-flink-1.20-job-server",
        ),
        Finding(
            "tensorflow_model_server",
            server,
            "checking models against the real server",
            remedy="" if server else "TF Serving's container image, or its apt repository",
        ),
        Finding(
            "Google credentials",
            credentials,
            "gs://, Dataflow, Vertex",
            remedy="" if credentials else "gcloud auth application-default login",
        ),
    ]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _gpus() -> str:
    try:
        import tensorflow as tf
    except ImportError:
        return ""
    names = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        names.append(details.get("device_name", device.name))
    return ", ".join(names)


def _cpu_flags() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    present = set(text.split())
    return [flag for flag in _CPU_FLAGS if flag in present]


def _first_line(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_LIMIT_SECS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    # java prints its version to standard error.
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else ""


def _prism() -> str:
    try:
        return find_prism(EngineConfig(runner="prism"))
    except InputError:
        return ""


def _flink_jar() -> str:
    folders = (Path.home() / ".m2" / "repository", Path.home() / ".apache_beam" / "cache" / "jars")
    for folder in folders:
        for jar in sorted(folder.rglob("beam-runners-flink-*-job-server-*.jar")):
            return jar.name
    return ""


def _credentials() -> str:
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    default = Path.home() / ".config" / "gcloud" / "application_default_credentials.json"
    if named:
        return "GOOGLE_APPLICATION_CREDENTIALS"
    return "application default" if default.is_file() else ""
