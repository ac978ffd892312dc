"""A run's folder and the state in it: claimed by one recipe, saved atomically, resumed exactly.

    OUT/config.json                 the recipe; a command with another one is refused
    OUT/metrics.jsonl               one object a step
    OUT/samples.jsonl               a few answers of each step
    OUT/checkpoints/step_000100/    a save_pretrained folder (transformers and vLLM open it) + optimizer and run state

Weights and optimizer state are safetensors, everything else is JSON: nothing here is ever unpickled. A checkpoint is
written under another name and renamed when it is whole, so a run may be killed at any moment.
"""

import json
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainer.policy import Policy, copy_full, full

# Fields that may change between two commands on the same folder: they say how long and how safely, not what.
FREE_FIELDS = {"out", "steps", "save_every", "keep_checkpoints"}


def claim(out: Path, config: dict) -> None:
    """Make the folder this recipe's, or check that it is already.

    Raises ValueError naming the fields that differ when another recipe's run lies there, or if no folder can be made.
    """
    path = out / "config.json"
    if path.exists():
        before = json.loads(path.read_text())
        differing = sorted(
            k for k in before.keys() | config.keys() if before.get(k) != config.get(k)
        )
        if differing := [k for k in differing if k not in FREE_FIELDS]:
            changes = ", ".join(
                f"{k}: {before.get(k)!r} there, {config.get(k)!r} here" for k in differing
            )
            raise ValueError(
                f"{out} holds a run of another recipe ({changes}); give another --out, or delete that folder"
            )
    elif dist.get_rank() == 0:
        make_folder(out)
        write_atomically(path, json.dumps(config, indent=1) + "\n")


def make_folder(out: Path) -> None:
    """Raises ValueError, with what to do, where no folder can be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot make the folder {out} ({error.strerror}); give another --out"
        ) from error


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, sees the old content or the new, never half of it."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text)
    os.replace(aside, path)


def latest_checkpoint(out: Path) -> Path | None:
    """The newest whole checkpoint of a run folder, or None."""
    return max((out / "checkpoints").glob("step_??????"), default=None)


def save_checkpoint(
    out: Path,
    step: int,
    policy: Policy,
    tokenizer,
    optimizer: torch.optim.Optimizer,
    state: dict,
    keep: int,
    reference: Policy | None = None,
) -> None:
    """Save everything that the rest of the run depends on; delete all but the `keep` newest. Called by every rank.

    state: what JSON can hold, such as the data position. Random numbers need little: a request's seed is a function of
    (seed, step, prompt), and the trainer draws none; torch's generator is kept all the same.
    Raises OSError (disk full, say) after removing what it had written; earlier checkpoints stay as they are.
    """
    weights = {name: tensor.cpu().contiguous() for name, tensor in policy.full_state()}
    moments = dict(_optimizer_tensors(policy, optimizer))
    if dist.get_rank() == 0:
        target = out / "checkpoints" / f"step_{step:06d}"
        aside = target.with_suffix(".tmp")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            policy.model.save_pretrained(aside, state_dict=weights)
            tokenizer.save_pretrained(aside)
            save_file(moments, aside / "optimizer.safetensors")
            save_file({"torch": torch.get_rng_state()}, aside / "rng.safetensors")
            if reference is not None:
                save_file(
                    {k: v.cpu().clone() for k, v in reference.full_state()},
                    aside / "reference.safetensors",
                )
            (aside / "state.json").write_text(json.dumps({"step": step, **state}, indent=1) + "\n")
            shutil.rmtree(target, ignore_errors=True)
            aside.rename(target)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise OSError(
                f"cannot save {target}: {error}; make room, the same command continues the run"
            ) from error
        for old in sorted((out / "checkpoints").glob("step_??????"))[:-keep]:
            shutil.rmtree(old)
        for torn in (out / "checkpoints").glob(
            "step_*.tmp"
        ):  # what a kill in the middle of a saving left
            shutil.rmtree(torn)
    dist.barrier()


def load_checkpoint(
    folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, reference: Policy | None = None
) -> dict:
    """Put a saved state back into policy, optimizer and reference, whatever the number of ranks then and now.

    Returns the saved `state`, with its "step".
    """
    weights = {}
    for file in sorted(folder.glob("model*.safetensors")):
        weights |= load_file(file)
    for name in policy.model.state_dict():
        if (
            name not in weights
        ):  # save_pretrained leaves out the head of a model that ties it to its embeddings
            weights[name] = weights["model.embed_tokens.weight"]
    policy.load_full_state(weights)
    moments = load_file(folder / "optimizer.safetensors")
    for name, parameter in policy.named_parameters():
        if f"{name}.step" in moments:
            entry = {"step": moments[f"{name}.step"]}
            for moment in ("exp_avg", "exp_avg_sq"):
                entry[moment] = torch.zeros_like(parameter)
                copy_full(entry[moment], moments[f"{name}.{moment}"])
            optimizer.state[parameter] = entry
    if reference is not None:
        reference.load_full_state(load_file(folder / "reference.safetensors"))
    torch.set_rng_state(load_file(folder / "rng.safetensors")["torch"])
    return json.loads((folder / "state.json").read_text())


def _optimizer_tensors(policy, optimizer):
    for name, parameter in policy.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{name}.{key}", full(value).detach().cpu().clone()


def forget_after(path: Path, step: int) -> None:
    """Drop the lines of a .jsonl file that belong to later steps, and a torn last line: they will be made again."""
    if path.exists() and dist.get_rank() == 0:
        kept = []
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except json.JSONDecodeError:
                break
        write_atomically(path, "".join(kept))
    dist.barrier()
