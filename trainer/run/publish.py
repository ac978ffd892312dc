"""Publish a run: metrics to a dashboard, a model card, and the model to the hub.

TensorBoard files are written if its package is installed. `--report_to` adds trackio or wandb, and
`--push_to_hub` uploads the trained model at the end. Only rank 0 calls this.
"""

import dataclasses
import importlib
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from statistics import fmean

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from trainer.errors import Refused
from trainer.run.checkpoint import TRAINING
from trainer.run.claim import recipe_file
from trainer.run.files import write_atomically

MEASURES = ("reward", "accuracy", "length", "truncated", "entropy", "logp_gap")
# Files of a checkpoint that only a continued run needs.
PRIVATE = [f"{TRAINING}/*", "state.json"]
# Flags that say where a run was, not how it trained.
PLACES = ("out", "check", "report_to", "push_to_hub")


def make_reporters(out: Path, recipe: str, config: dict) -> list:
    """The services that get a run's numbers, each with log(numbers, step) and finish().

    finish waits until all are sent. The service that config["report_to"] names also shows config.
    """
    reporters = []
    with suppress(ImportError):  # the package tensorboard is not installed
        reporters.append(TensorBoard(out / "tensorboard"))
    if config["report_to"] != "none":
        service = importlib.import_module(config["report_to"])
        # The same folder continues the same run there; a new run in it gets a new name.
        age = (out / "config.json").stat().st_mtime_ns
        options = {"resume": "allow"}
        if config["report_to"] == "wandb":
            options |= {"id": f"{age:x}", "dir": str(out)}
        service.init(project=recipe, name=out.name, config=config, **options)
        reporters.append(service)
    return reporters


class TensorBoard:
    """torch's writer, called as trackio and wandb are."""

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder)

    def log(self, numbers: dict, step: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self.writer.close()


def before_and_after(rows: list[dict]) -> dict[str, tuple[float, float]]:
    """{measure: (before, after)} of a run's metrics; {} if it has no step.

    Held-out pass@1 is from the first and the last evaluation. The others are means over the first
    and the last steps, at most five each.
    """
    trained = [row for row in rows if row["step"] > 0]
    if not trained:
        return {}
    found = {}
    measured = [row["eval_accuracy"] for row in rows if "eval_accuracy" in row]
    if measured:
        found["held-out pass@1"] = measured[0], measured[-1]
    for name in MEASURES:
        if values := [row[name] for row in trained if name in row]:
            edge = max(1, min(5, len(values) // 2))
            found[name] = fmean(values[:edge]), fmean(values[-edge:])
    return found


def model_card(recipe: str, config, rows: list[dict]) -> str:
    """The README.md of a trained model, with the hub's metadata on top.

    config: the recipe's Config. The command on the card gives the flags that differ from its
    defaults, and the recipe is introduced by the first line of its docstring, which names a paper.
    """
    module, values = sys.modules[type(config).__module__], dataclasses.asdict(config)
    defaults = dataclasses.asdict(type(config)())
    flags = {name: value for name, value in values.items() if name not in PLACES}
    changed = [f"--{name}={value}" for name, value in flags.items() if value != defaults[name]]
    package = module.__spec__ and "." in module.__spec__.name
    script = ["-m", module.__spec__.name] if package else [Path(recipe_file(config) or recipe).name]
    data = [name.strip() for name in config.data.split(",") if _is_hub_id(name.strip())]
    meta = huggingface_hub.ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["reinforcement-learning", "grpo", recipe],
        base_model=config.model if _is_hub_id(config.model) else None,
        datasets=data or None,
    )
    about = (module.__doc__ or "").strip().partition("\n")[0]
    measures = "\n".join(
        f"| {name} | {before:.4g} | {after:.4g} |"
        for name, (before, after) in before_and_after(rows).items()
    )
    table = "\n".join(f"| `{name}` | `{value!r}` |" for name, value in flags.items())
    return f"""---
{meta.to_yaml()}
---

# {Path(config.model).name}, trained with {recipe}

`{config.model}` after {rows[-1]["step"]} of {config.steps} steps of the recipe `{recipe}`, by
reinforcement learning on `{config.data}`. Held-out problems: `{config.eval_data}`.

{about}

```bash
python {shlex.join([*script, *changed])}
```

| | before | after |
|---|---|---|
{measures}

Held-out pass@1: {config.eval_samples} answers to each problem at temperature
{config.eval_temperature}. The other rows are means over the first and the last steps.

![Curves of the run](curves.png)

## All flags

| flag | value |
|---|---|
{table}
"""


def _is_hub_id(name):
    return name.count("/") == 1 and ":" not in name and not Path(name).expanduser().exists()


def write_card(folder: Path, recipe: str, config, rows: list[dict], curves: Path) -> None:
    """Put README.md and curves.png into a checkpoint."""
    (folder / "curves.png").write_bytes(curves.read_bytes())
    write_atomically(folder / "README.md", model_card(recipe, config, rows))


def push_to_hub(folder: Path, name: str) -> str:
    """Upload a checkpoint to a private repository of the hub, made if there is none.

    Returns its address. Raises Refused, with the command that tries again, if that fails.
    """
    hub = huggingface_hub.HfApi()
    try:
        address = hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=address.repo_id, folder_path=folder, ignore_patterns=PRIVATE)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        private = " ".join(f"--exclude {shlex.quote(name)}" for name in PRIVATE)
        raise Refused(
            f"the run is complete, but not uploaded ({reason}); try again with: hf upload --private"
            f" {name} {folder} {private}"
        ) from error
    return str(address)
