"""A run's checkpoints: saved atomically, resumed exactly.

    OUT/config.json                 flags and digests of the code (claim.py)
    OUT/metrics.jsonl               one object per step
    OUT/rollouts/                   a few groups of each step, token by token (kept.py)
    OUT/checkpoints/step_000100/    a save_pretrained folder, and the run's state.json
        training/                   optimizer and reference, where vLLM does not look for weights

Weights and optimizer state are safetensors, everything else is JSON, and nothing is unpickled. A
checkpoint is written under another name and renamed when it is complete, so a run may be killed at
any moment.
"""

import json
import shutil
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from trainer.errors import Refused
from trainer.policy.policy import Policy, copy_full, full
from trainer.policy.pretrained import load_model
from trainer.ranks import from_all_ranks
from trainer.run.files import checkpoints, read_json, read_jsonl, write_jsonl

TRAINING = "training"  # folder for tensors that only a continued run needs
ADDED = "added"  # file there of what a recipe has added to the policy, such as a value head


def latest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint of a run folder; None if there is none.

    Raises Refused on every rank if the ranks do not see the same one.
    """
    newest = from_all_ranks(max((folder.name for folder in checkpoints(out)), default=""))
    if len(set(newest)) > 1:
        raise Refused(
            f"not every rank sees {out / 'checkpoints' / max(newest)}: --out must name a folder "
            f"that all machines share"
        )
    return out / "checkpoints" / newest[0] if newest[0] else None


def check_whole(state: dict, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Raise Refused, and say why, if a checkpoint could not bring all of this back."""
    for name, value in state.items():
        with suppress(TypeError):
            if isinstance(value, Policy) or json.loads(json.dumps(value)) == value:
                continue
        raise Refused(
            f"state[{name!r}] would not come back from a checkpoint as it is: only numbers, texts, "
            f"lists, dicts with texts as keys, and policies do"
        )
    for key, value in chain(*(kept.items() for kept in optimizer.state.values())):
        if not isinstance(value, torch.Tensor | None):
            raise Refused(
                f"{type(optimizer).__name__} keeps a {type(value).__name__} as {key!r}: a "
                f"checkpoint holds tensors alone, so take an optimizer that keeps these"
            )
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if trained - set(policy.parameters()):
        raise Refused(
            "the optimizer trains a tensor that is not in the policy, so no checkpoint has it; in "
            "one process on a CPU, add its module: policy.value = torch.nn.Linear(...)"
        )
    if "initial_lr" in optimizer.param_groups[0]:  # set by torch's schedulers
        raise Refused(
            "a learning rate scheduler begins again when a run is continued: compute the rate from "
            "the step, and give it to set_learning_rate"
        )


def added_tensors(policy: Policy) -> dict[str, torch.Tensor]:
    """{name: tensor} of what a recipe has added to the policy beside its model."""
    return {k: v for k, v in policy.state_dict().items() if not k.startswith("model.")}


def save_checkpoint(
    out: Path,
    state: dict,
    policy: Policy,
    tokenizer,
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
) -> None:
    """Save everything that the rest of the run depends on. Keep the `keep` newest checkpoints.

    state: JSON values, and policies (ProRL's reference). state["step"] names the checkpoint. There
    is no random state: a request's seed is a function of (seed, step, prompt), and the trainer
    draws no random numbers.

    Every rank calls this. If it fails, for example on a full disk, it removes what it has written,
    keeps earlier checkpoints, and raises Refused.
    """
    first = dist.get_rank() == 0
    target = out / "checkpoints" / f"step_{state['step']:06d}"
    aside = target.with_suffix(".tmp")
    policies = {name: value for name, value in state.items() if isinstance(value, Policy)}
    plain = {name: value for name, value in state.items() if name not in policies}
    tensors = {"optimizer": _optimizer_tensors(policy, optimizer)}
    for name, value in policies.items():
        # Clones, because safetensors refuses two names for the same memory: tied weights.
        tensors[name] = ((key, tensor.clone()) for key, tensor in value.full_state())
    if added := added_tensors(policy):
        tensors[ADDED] = added.items()
    try:
        # One file's tensors at a time, and only on rank 0, to save host memory.
        weights = dict(_on_rank_0(policy.full_state()))
        if first:
            shutil.rmtree(aside, ignore_errors=True)
            policy.model.save_pretrained(aside, state_dict=weights)
            tokenizer.save_pretrained(aside)
            (aside / TRAINING).mkdir()
        del weights
        for name, named_tensors in tensors.items():
            whole = dict(_on_rank_0(named_tensors))
            if first:
                save_file(whole, aside / TRAINING / f"{name}.safetensors")
            del whole
        if first:
            (aside / "state.json").write_text(json.dumps(plain, indent=1) + "\n")
            shutil.rmtree(target, ignore_errors=True)
            aside.rename(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise Refused(
            f"cannot save {target}: {error}; make room, the same command continues the run"
        ) from error
    if first:
        for old in checkpoints(out)[:-keep]:
            shutil.rmtree(old)
        for torn in (out / "checkpoints").glob("step_*.tmp"):  # left by a kill during a save
            shutil.rmtree(torn)
    dist.barrier()


def load_checkpoint(
    folder: Path, state: dict, policy: Policy, optimizer: torch.optim.Optimizer
) -> dict:
    """Load a checkpoint into policy, optimizer and the policies in state. Returns the saved state.

    The number of ranks may have changed. Raises Refused if a file is damaged, if the saved state
    lacks a key of `state`, or if it was saved while training on other problems.
    """
    policies = {name: value for name, value in state.items() if isinstance(value, Policy)}
    with _named_if_damaged(folder):
        saved = read_json(folder / "state.json") | policies
    if missing := state.keys() - saved.keys():
        raise Refused(
            f"{folder} was saved by another version of this code (it has no {min(missing)}); "
            f"start a new run from its weights with --model {folder} and another --out"
        )
    if saved["data"] != state["data"]:
        raise Refused(
            f"{folder} was saved while training on other problems: continue with the same data, or "
            f"give another --out"
        )
    first = dist.get_rank() == 0
    with _named_if_damaged(folder):
        # Through transformers, because save_pretrained may write other names than the model's own.
        # Rank 0 reads, and sends the others their shares, one tensor after another.
        whole = load_model(str(folder), torch.float32).state_dict() if first else None
    policy.load_full_state(whole)
    del whole
    with _named_if_damaged(folder):
        _load_optimizer(folder / TRAINING / "optimizer.safetensors", policy, optimizer)
        for name, value in policies.items():
            value.load_full_state(load_file(folder / TRAINING / f"{name}.safetensors"))
        if added := added_tensors(policy):
            whole = load_file(folder / TRAINING / f"{ADDED}.safetensors")
            for name, tensor in added.items():
                copy_full(tensor, whole[name])
    return saved


@contextmanager
def _named_if_damaged(folder):
    """Say what to do where a checkpoint's file cannot be read."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise Refused(
            f"{folder} is damaged ({reason}): delete it, and the same command continues from the "
            f"checkpoint before"
        ) from error


def _on_rank_0(named_tensors):
    """Yield (name, whole tensor) in host memory on rank 0; the other ranks only take part."""
    for name, tensor in named_tensors:
        whole = full(tensor).detach()
        if dist.get_rank() == 0:
            yield name, whole.cpu().contiguous()


def _optimizer_tensors(policy, optimizer):
    """Yield ("PARAMETER.KEY", tensor) for any of torch's optimizers."""
    # torch.distributed.checkpoint.state_dict would do this in one call, but it takes a step with an
    # optimizer whose state is empty, as ProRL's resets leave it.
    for name, parameter in policy.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                yield f"{name}.{key}", value


def _load_optimizer(path, policy, optimizer):
    """Load what _optimizer_tensors gave; a tensor of the parameter's shape is sharded like it."""
    parameters = dict(policy.named_parameters())
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    for name in names:
        owner, _, key = name.rpartition(".")
        parameter = parameters[owner]
        with safe_open(path, "pt") as file:  # opened again for each tensor, which frees memory
            value = file.get_tensor(name)
        if value.shape == parameter.shape:
            whole, value = value, torch.zeros_like(parameter, dtype=value.dtype)
            copy_full(value, whole)
        else:
            value = value.clone()
        if key == "step" and optimizer.param_groups[0].get("fused"):
            value = value.to(parameter.device)  # a fused kernel reads the count there
        optimizer.state[parameter][key] = value


def forget_after(path: Path, step: int) -> None:
    """Remove the lines of later steps, and an incomplete last line, from a .jsonl file.

    The run will write them again.
    """
    if path.exists():
        write_jsonl(path, [row for row in read_jsonl(path) if row["step"] <= step])
