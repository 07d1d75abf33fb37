"""A stand-in for Kubeflow: reads a compiled specification and runs each step's container command.

It does the driver's part (inputs from earlier outputs, places for new ones, conditions) and hands
every container the ExecutorInput that Kubeflow would. It can't stand in for: images and what is in
them, the object store (a folder is), resources and accelerators, the platform's cache, secrets,
service accounts, parallel steps, pauses between attempts. As on Kubeflow, all attempts of a step
have the same ExecutorInput, so each finds what the last one left behind.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.forked import Forked

_CONDITION = re.compile(r"inputs\.parameter_values\['(\w+)'\] != ''")


@dataclass
class Cluster:
    """Runs specifications.

    Attributes:
        folder: stands in for the object store.
        execute: runs a command, its output into a file, and returns its exit status.
        ran: the steps that ran, in order.
        attempts: how often each step was started.
        skipped: the DAGs whose condition did not hold.
        seconds: wall time by step.
        inputs: the ExecutorInput of each step.
    """

    folder: Path
    execute: Callable[[list[str], Path], int]
    ran: list[str] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, job: dict[str, Any], run: str, **parameters: Any) -> dict[str, Any]:
        """Runs a job; gives the outputs of every step by its name."""
        store = job["runtimeConfig"]["gcsOutputDirectory"]
        spec = json.loads(json.dumps(job["pipelineSpec"]).replace(store, str(self.folder)))
        given = {**job["runtimeConfig"].get("parameterValues", {}), **parameters}
        self._spec, self._place = spec, self.folder / run
        outputs: dict[str, Any] = {}
        self._dag(spec["root"]["dag"]["tasks"], given, outputs)
        return outputs

    def _dag(self, tasks: dict[str, Any], given: dict[str, Any], outputs: dict[str, Any]) -> None:
        waiting = dict(tasks)
        while waiting:
            ready = [n for n, t in waiting.items() if not set(self._needs(t)) & set(waiting)]
            assert ready, f"circular: {sorted(waiting)}"
            name = ready[0]
            self._task(name, waiting.pop(name), given, outputs)

    def _needs(self, task: dict[str, Any]) -> list[str]:
        inputs = task.get("inputs", {})
        needs = list(task.get("dependentTasks", []))
        for source in inputs.get("artifacts", {}).values():
            needs.append(source["taskOutputArtifact"]["producerTask"])
        for source in inputs.get("parameters", {}).values():
            if "taskOutputParameter" in source:
                needs.append(source["taskOutputParameter"]["producerTask"])
        return needs

    def _task(
        self, name: str, task: dict[str, Any], given: dict[str, Any], outputs: dict[str, Any]
    ) -> None:
        inputs = task.get("inputs", {})
        values = {
            key: self._parameter(source, given, outputs)
            for key, source in inputs.get("parameters", {}).items()
        }
        condition = task.get("triggerPolicy", {}).get("condition")
        if condition is not None:
            match = _CONDITION.fullmatch(condition)
            assert match, f"unknown condition {condition}"
            if values[match[1]] == "":
                self.skipped.append(name)
                return
        component = self._spec["components"][task["componentRef"]["name"]]
        if "dag" in component:
            self._dag(component["dag"]["tasks"], values, outputs)
            return
        artifacts = {
            key: outputs[source["taskOutputArtifact"]["producerTask"]]["artifacts"][
                source["taskOutputArtifact"]["outputArtifactKey"]
            ]
            for key, source in inputs.get("artifacts", {}).items()
        }
        retries = int(task.get("retryPolicy", {}).get("maxRetryCount", 0))
        outputs[name] = self._container(name, component, values, artifacts, retries)

    def _parameter(
        self, source: dict[str, Any], given: dict[str, Any], outputs: dict[str, Any]
    ) -> Any:
        if "componentInputParameter" in source:
            return given[source["componentInputParameter"]]
        if "taskOutputParameter" in source:
            producer = source["taskOutputParameter"]
            return outputs[producer["producerTask"]]["parameters"][producer["outputParameterKey"]]
        return source["runtimeValue"]["constant"]

    def _container(
        self,
        name: str,
        component: dict[str, Any],
        values: dict[str, Any],
        artifacts: dict[str, Any],
        retries: int,
    ) -> dict[str, Any]:
        declared = component.get("inputDefinitions", {})
        assert set(values) == set(declared.get("parameters", {})), name
        assert set(artifacts) == set(declared.get("artifacts", {})), name
        place = self._place / f"{name}_1"
        place.mkdir(parents=True)
        wanted = component.get("outputDefinitions", {})
        types = {key: spec["artifactType"] for key, spec in wanted.get("artifacts", {}).items()}
        executor_input = {
            "inputs": {
                "parameterValues": values,
                "artifacts": {key: {"artifacts": [value]} for key, value in artifacts.items()},
            },
            "outputs": {
                "artifacts": {
                    key: {"artifacts": [
                        {"name": f"{place.parent.name}-{name}-{key}", "uri": str(place / key),
                         "type": kind}
                    ]}
                    for key, kind in types.items()
                },
                "parameters": {
                    key: {"outputFile": str(place / f"{key}.txt")}
                    for key in wanted.get("parameters", {})
                },
                "outputFile": str(place / "executor_output.json"),
            },
        }  # fmt: skip
        self.inputs[name] = executor_input
        container = self._spec["deploymentSpec"]["executors"][component["executorLabel"]][
            "container"
        ]
        command = [
            part.replace("{{$}}", json.dumps(executor_input))
            for part in [*container["command"], *container["args"]]
        ]
        began = time.monotonic()
        log = place / "log.txt"
        for attempt in range(1, 2 + retries):
            self.attempts[name] = attempt
            code = self.execute(command, log)
            if code == 0:
                break
        assert code == 0, f"{name}: {code}\n{log.read_text()[-3000:]}"
        self.ran.append(name)
        self.seconds[name] = time.monotonic() - began
        return self._outputs(place, types)

    def _outputs(self, place: Path, types: dict[str, Any]) -> dict[str, Any]:
        done = json.loads((place / "executor_output.json").read_text())
        artifacts = {}
        for key, kind in types.items():
            (artifact,) = done["artifacts"][key]["artifacts"]
            artifacts[key] = {**artifact, "type": kind}
        return {"artifacts": artifacts, "parameters": done.get("parameterValues", {})}


def run_in_a_fork(command: list[str], log: Path) -> int:
    """Executes `python -m MODULE ARGUMENTS...` without importing TFX anew."""
    _, _, module, *arguments = command
    return Forked(module, *arguments, output=log).wait()
