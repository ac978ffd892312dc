"""A run folder and its checkpoints: claimed by one run, saved atomically, resumed exactly.

    OUT/config.json                 flags and digests of the code; other commands are refused
    OUT/metrics.jsonl               one object per step
    OUT/rollouts/                   a few groups of each step, token by token (kept.py)
    OUT/checkpoints/step_000100/    a save_pretrained folder, and the run's state.json
        training/                   optimizer and reference, where vLLM does not look for weights

Weights and optimizer state are safetensors, everything else is JSON, and nothing is unpickled. A
checkpoint is written under another name and renamed when it is complete, so a run may be killed at
any moment.
"""

import ast
import hashlib
import json
import shutil
import sys
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

import losses
import rewards
from trainer.errors import Refused
from trainer.policy.policy import Policy, copy_full, full
from trainer.policy.pretrained import load_model
from trainer.ranks import from_all_ranks
from trainer.run.files import read_json, read_jsonl, write_atomically, write_jsonl
from trainer.run.flags import FREE

TRAINING = "training"  # folder for tensors that only a continued run needs
ADDED = "added"  # file there of what a recipe has added to the policy, such as a value head


def recipe_file(config) -> str | None:
    """The file that defines a recipe's Config; None for one that is defined in a notebook."""
    return getattr(sys.modules[type(config).__module__], "__file__", None)


def code_digests(config) -> dict[str, str]:
    """{file: its digest} of the code that must not change when a run is continued.

    These are losses.py, rewards.py, the recipe's file, the file of --reward, and what these two
    import from their own folders.
    """
    root = Path(losses.__file__).resolve().parent
    paths = {Path(losses.__file__).resolve(), Path(rewards.__file__).resolve()}
    for name in filter(None, (recipe_file(config), config.reward.rpartition(":")[0])):
        paths |= with_neighbours(Path(name).expanduser().resolve())
    return {
        str(path.relative_to(root) if root in path.parents else path): digest(path)
        for path in sorted(paths)
    }


def with_neighbours(script: Path) -> set[Path]:
    """A script, and the files next to it that it imports, itself or through one another.

    Raises Refused if Python has found another file for such an import, one earlier on its path.
    """
    found, new = set(), {script}
    while new:
        path = new.pop()
        found.add(path)
        for name, absolute in _imports(path):
            near = path.with_name(f"{name.rpartition('.')[2]}.py")
            its_name = near.with_suffix("").as_posix().endswith("/" + name.replace(".", "/"))
            if not its_name or not near.is_file() or near in found:
                continue
            new.add(near)
            loaded = getattr(sys.modules.get(name), "__file__", None) or near
            if absolute and Path(loaded).resolve() != near:
                raise Refused(
                    f"{near} has no effect, because {path.name} gets {loaded} by that import: give "
                    f"it a name that no module here has"
                )
    return found


def _imports(path):
    """Yield (name, absolute) of each module that a file may import."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, True) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = [node.module] if node.module else []
            for names in (module, *([*module, alias.name] for alias in node.names)):
                yield ".".join(names), node.level == 0


def claim(out: Path, config: dict, code: dict[str, str]) -> None:
    """Make the folder this run's, or check that it is already.

    config: the flags and the recipe's name. code: {file: digest}. A run without metrics and
    checkpoints has not begun, so any other may take its folder. Raises Refused if the folder has a
    run with other settings or code, and names the difference, or if its files are not a run's.
    """
    path, before = out / "config.json", {}
    begun = any((out / name).exists() for name in ("metrics.jsonl", "checkpoints"))
    if begun or path.exists():
        with suppress(OSError, Refused):
            before = read_json(path)
        if "recipe" not in before:
            raise Refused(f"{out} holds files that no run wrote, see {path}: give another --out")
    before = before if begun else dict(config)
    began = before.pop("code", None)
    if not any((out / "checkpoints").glob("step_??????")):
        began = None  # the run begins again, so it may do so with other code
    changed = [name for name in _changed(before, config) if name not in FREE]
    if changed := ["recipe"] if "recipe" in changed else changed:  # another one has other flags
        changes = ", ".join(
            f"{name}: {before.get(name)!r} there, {config.get(name)!r} here" for name in changed
        )
        raise Refused(
            f"{out} holds a run with other settings ({changes}); add --out {out}-{changed[0]}, "
            f"say, or delete that folder"
        )
    if began is None:
        if dist.get_rank() == 0:
            write_atomically(path, json.dumps(before | {"code": code}, indent=1) + "\n")
    elif edited := _changed(began, code):
        raise Refused(
            f"{', '.join(edited)} changed since the run in {out} began; add --out {out}-2, give "
            f"RECIPE another name, or delete that folder. (To go on there with the new code, "
            f'delete "code" from its config.json)'
        )


def _changed(before: dict, now: dict) -> list[str]:
    return sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))


def latest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint of a run folder; None if there is none.

    Raises Refused on every rank if the ranks do not see the same one.
    """
    folders = (out / "checkpoints").glob("step_??????")
    newest = from_all_ranks(max((folder.name for folder in folders), default=""))
    if len(set(newest)) > 1:
        raise Refused(
            f"not every rank sees {out / 'checkpoints' / max(newest)}: --out must name a folder "
            f"that all machines share"
        )
    return out / "checkpoints" / newest[0] if newest[0] else None


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_whole(state: dict, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Raise Refused, and say why, if a checkpoint could not bring all of this back."""
    for name, value in state.items():
        try:
            whole = isinstance(value, Policy) or json.loads(json.dumps(value)) == value
        except TypeError:
            whole = False
        if not whole:
            raise Refused(
                f"state[{name!r}] would not come back from a checkpoint as it is: only numbers, "
                f"texts, lists, dicts with texts as keys, and policies do"
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
        for old in sorted((out / "checkpoints").glob("step_??????"))[:-keep]:
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
            whole = value if dist.get_rank() == 0 else None
            value = torch.zeros_like(parameter, dtype=value.dtype)
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
