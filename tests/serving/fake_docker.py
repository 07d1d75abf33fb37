"""Stands for `docker run ... IMAGE FLAGS...`: runs the stand-in server with the container's paths.

Called as `docker`; the image `tensorflow/serving:missing` cannot be had. The command line goes into
the file that FAKE_DOCKER_LOG names.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

MODELS = "/models/vaeline"
STAND_IN = Path(__file__).parent / "loopback_server.py"


def main() -> None:
    Path(os.environ["FAKE_DOCKER_LOG"]).write_text(json.dumps(sys.argv[1:]), encoding="utf-8")
    if sys.argv[1:] == ["version"]:
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["run"])
    for flag in ("--rm", "--init"):
        parser.add_argument(flag, action="store_true", required=True)
    parser.add_argument("-p", dest="ports", action="append")
    parser.add_argument("-v", dest="mounts", action="append")
    parser.add_argument("image")
    parser.add_argument("flags", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.image == "tensorflow/serving:missing":
        print("docker: manifest for tensorflow/serving:missing not found.", file=sys.stderr)
        sys.exit(125)
    ports = {inside: outside for _, outside, inside in (p.split(":") for p in options.ports)}
    mounts = {inside: outside for outside, inside, _ in (m.split(":") for m in options.mounts)}

    def outside(flag: str) -> str:
        name, _, path = flag.partition("=")
        for inside, place in mounts.items():
            if path.startswith(f"{inside}/"):
                return f"{name}={place}{path.removeprefix(inside)}"
        return flag

    flags = [outside(flag) for flag in options.flags]
    if MODELS in mounts:
        # The model config file has this path of the container.
        (file,) = (flag for flag in flags if flag.startswith("--model_config_file="))
        text = Path(file.partition("=")[2]).read_text("utf-8")
        config = Path(tempfile.mkdtemp()) / "models.config"
        config.write_text(text.replace(f'"{MODELS}"', f'"{mounts[MODELS]}"'), "utf-8")
        flags[flags.index(file)] = f"--model_config_file={config}"
    ports_of_it = [f"--port={ports['8500']}", f"--rest_api_port={ports['8501']}"]
    os.execv(sys.executable, [sys.executable, str(STAND_IN), *ports_of_it, *flags])


if __name__ == "__main__":
    main()
