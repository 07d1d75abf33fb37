"""The compiled specifications that tests hold the compiler to, and how to renew them.

`python -m tests.pipeline.orchestration.golden` writes them anew; look at the difference before
committing it. Left out: what the releases of TFX and TFDV decide (schemas of artifacts, versions,
defaults of the statistics).
"""

import json
from pathlib import Path
from typing import Any

import tensorflow_data_validation as tfdv
import yaml

from pipeline.config import parse_config
from pipeline.orchestration.compiler import compile_pipeline

FOLDER = Path(__file__).parent / "golden"
IMAGE = "registry.example/vaeline@sha256:" + "0" * 64
VERTEX = {"project": "pictures", "region": "europe-west4", "service_account": "runs@pictures"}
CLOUD = {"input": {"paths": "gs://pictures/{YYYY}-{MM}-{DD}.zip"},
         "push": {"directory": "gs://pictures/pushed"}}  # fmt: skip
ON_VERTEX = {"platform": "vertex", "image": IMAGE, "pipeline_root": "gs://pictures/runs",
             "vertex": VERTEX}  # fmt: skip
ON_KUBEFLOW = {"platform": "kubeflow", "image": IMAGE, "pipeline_root": "gs://mlpipeline/v2",
               "kubeflow": {"endpoint": "http://ml-pipeline:8888"}}  # fmt: skip
EVERY_STEP = {
    "trainer": {"tuner": {"enabled": True}},
    "bulk": {"in_pipeline": True, "input": {"paths": "gs://pictures/unlabelled.zip"}},
}
T4, GPU = {"accelerator": "NVIDIA_TESLA_T4"}, {"accelerator": "nvidia.com/gpu"}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "local": {
        "input": {"paths": "/mnt/pictures/{YYYY}-{MM}-{DD}.zip"},
        "push": {"directory": "/mnt/pushed"},
        "cluster": {
            **ON_KUBEFLOW,
            "secrets": [{"name": "store", "key": "token", "variable": "STORE_TOKEN"}],
            "steps": {"retries": {"count": 2}, "timeout_secs": 3600},
            "per_step": {"Transform": {"memory_gb": 24, "retries": {"count": 0}}},
        },
    },
    "kubeflow_gpu": {
        **CLOUD,
        **EVERY_STEP,
        "cluster": {
            **ON_KUBEFLOW,
            "trainer": {
                "cpu": 8, "memory_gb": 30, **GPU, "accelerators": 3, "timeout_secs": 86400,
                "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
                "retries": {"count": 1, "backoff_secs": 300, "factor": 1},
            },
            "per_step": {
                "Tuner": {**GPU, "cpu": 8, "memory_gb": 30, "timeout_secs": 43200},
                "ServingCheck": GPU,
                "BulkInference": {**GPU, "node_selector": {"pool": "batch"}},
            },
        },
    },
    "gpu": {
        **CLOUD,
        **EVERY_STEP,
        "cluster": {
            **ON_VERTEX,
            "steps": {"retries": {"count": 2}},
            "trainer": {
                "cpu": 8, "memory_gb": 30, **T4, "accelerators": 2, "timeout_secs": 86400,
                "retries": {"count": 1, "max_backoff_secs": 600},
            },
            "per_step": {
                "Tuner": {**T4, "cpu": 8, "memory_gb": 30, "timeout_secs": 43200},
                "ServingCheck": {**T4, "retries": {"count": 0}},
                "BulkInference": {"accelerator": "NVIDIA_L4", "accelerators": 4, "cpu": 48},
            },
        },
    },
    "multi_worker": {
        **CLOUD,
        "cluster": {
            **ON_VERTEX,
            "trainer": {
                "workers": 4, "accelerator": "NVIDIA_L4", "machine_type": "g2-standard-8",
                "timeout_secs": 86400, "retries": {"count": 3},
            },
        },
    },
    "dataflow": {
        **CLOUD,
        "cluster": {
            **ON_VERTEX,
            "dataflow": {
                "project": "pictures", "region": "europe-west4",
                "temp_location": "gs://pictures/tmp", "max_workers": 20,
                "service_account": "beam@pictures", "subnetwork": "regions/e/subnetworks/s",
            },
        },
    },
}  # fmt: skip


def compiled(name: str) -> dict[str, Any]:
    """Compiles one of the configurations."""
    return compile_pipeline(parse_config(CONFIGURATIONS[name]), code_digest="c0de")


def excerpt(job: dict[str, Any]) -> dict[str, Any]:
    """Takes the part of a specification that is ours."""
    spec = job["pipelineSpec"]
    executors = {}
    for label, executor in spec["deploymentSpec"]["executors"].items():
        container = dict(executor["container"])
        arguments = container["args"]
        at = arguments.index("--json_serialized_inputs_spec_args")
        container["args"] = arguments[:at] + arguments[at + 2 :]
        executors[label] = container
    retrain = json.loads(json.dumps(spec["components"]["retrain"]))
    statistics = retrain["dag"]["tasks"]["StatisticsGen"]["inputs"]["parameters"]
    value = statistics["stats_options_json"]["runtimeValue"]
    value["constant"] = json.dumps(chosen_statistics(value["constant"]), sort_keys=True)
    return {
        "root": spec["root"],
        "retrain": retrain,
        "executors": executors,
        "runtimeConfig": job["runtimeConfig"],
        **({"platforms": job["platforms"]} if "platforms" in job else {}),
    }


def chosen_statistics(options: str) -> dict[str, Any]:
    """Takes from StatsOptions in JSON what TFDV would not choose by itself."""
    defaults = json.loads(tfdv.StatsOptions().to_json())
    return {
        key: value
        for key, value in json.loads(options).items()
        if key not in defaults or value != defaults[key]
    }


def as_text(job: dict[str, Any]) -> str:
    return str(yaml.safe_dump(excerpt(job), sort_keys=True, width=100))


def main() -> None:
    for name in CONFIGURATIONS:
        (FOLDER / f"{name}.yaml").write_text(as_text(compiled(name)), encoding="utf-8")


if __name__ == "__main__":
    main()
