"""The command line: a recipe's Config as flags, its presets, and a check of every value.

A Config is a dataclass whose comments are the help text. So a hyperparameter, its value and its
source are in one line of the recipe:

    learning_rate: float = 1e-6  # AdamW, constant (Table 2)
"""

import argparse
import ast
import importlib.util
import inspect
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import huggingface_hub
import torch

from trainer.errors import Refused, did_you_mean
from trainer.run.inert import NEEDS, inert_flags
from trainer.run.own_reward import load_reward


def at_least(low: float) -> tuple[str, Callable]:
    return f"must be at least {low}", lambda value: value >= low


def above(low: float) -> tuple[str, Callable]:
    return f"must be above {low}", lambda value: value > low


def is_path(text: str) -> bool:
    return not text or (not text.isspace() and not os.path.expanduser(text).startswith("~"))


SHARE = "must be above 0 and at most 1", lambda value: 0 < value <= 1
LENGTHS = ("max_prompt_tokens", "max_response_tokens", "eval_max_tokens", "tokens_per_micro_batch")
COUNTS = ("steps", "prompts_per_step", "updates_per_step", "eval_samples", "keep_checkpoints")
NEVER = ("eval_every", "save_every", "reset_every", "reset_patience")  # 0 and -1: never
# Ranges of flags that several recipes have. A recipe adds those of its own flags in Config.ranges.
RANGES = {
    **dict.fromkeys((*COUNTS, *LENGTHS, "max_rounds", "overlong_buffer"), at_least(1)),
    "samples_per_prompt": at_least(2),  # the advantage in a group of one is 0
    **dict.fromkeys(NEVER, ("must be at least 1, or 0 for never", lambda value: value >= 0)),
    **dict.fromkeys(("seed", "warmup_steps", "eval_temperature"), at_least(0)),
    **dict.fromkeys(("weight_decay", "kl_coefficient", "tis_cap", "clip_high"), at_least(0)),
    **dict.fromkeys(("temperature", "max_grad_norm"), above(0)),
    **dict.fromkeys(("top_p", "eval_top_p"), SHARE),
    "learning_rate": ("must be above 0 and below 1", lambda value: 0 < value < 1),
    "engine_memory": ("must be above 0 and below 1", lambda value: 0 < value < 1),
    "clip_low": ("must be between 0 and 1", lambda value: 0 <= value <= 1),
    "dual_clip": above(1),
    "top_k": ("must be at least 1, or -1 for all tokens", lambda value: value >= 1 or value == -1),
    "keep_rollouts": (
        'must be "all" or how many groups to keep: 0, 1, 2, ...',
        lambda value: value == "all" or (value.isascii() and value.isdecimal()),
    ),
    "logic_weight": ("must be at least 0 and below 1", lambda value: 0 <= value < 1),
    "out": ("must be a folder, in the home of a known user if it begins with ~", is_path),
    "model": ("must be a folder or a hub id", is_path),
}


@dataclass
class Flags:
    """The flags of every recipe that are in no paper. Each Config adds its hyperparameters."""

    tiny: bool = False  # run in the embedded world: only scale changes, never the algorithm
    small: bool = False  # a real model of 0.6B on one 24 GB GPU: only scale changes, as in --tiny
    decontaminate: bool = False  # drop training problems that are evaluation problems
    keep_system: bool = True  # keep the system messages that come with the problems
    out: str = ""  # run folder; default runs/RECIPE-seedN
    # auto: vllm if there is a GPU and vllm is installed
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    engine_memory: float = 0.35  # share of the GPU's memory that vLLM may use
    tis_cap: float = 0.0  # cap of the importance weight against engine mismatch; 0: off (papers)
    tokens_per_micro_batch: int = 32768  # padded tokens in memory at once; no effect on the result
    gradient_checkpointing: bool = True  # recompute activations instead of keeping them
    offload: bool = False  # keep master weights and optimizer state in host memory: slower, fits
    save_every: int = 50  # steps between checkpoints; 0: only at the end
    keep_checkpoints: int = 2  # older ones are deleted
    keep_rollouts: str = "4"  # groups a step to read later (tools/view), or "all"
    check: bool = False  # measure whether this run fits here and how long it takes; train nothing
    reward: str = ""  # FILE.py:FUNCTION, your own reward instead of the recipe's
    # also log to this service, through its own package
    report_to: Literal["none", "trackio", "wandb"] = "none"
    push_to_hub: str = ""  # at the end, upload the trained model to this private hub repository

    ranges = RANGES  # {flag: (rule in words, test)}; not a field, so not a flag
    needs = NEEDS  # {flag: (test, why it has no effect where that fails)}

    def fault(self) -> str | None:
        """The first wrong value, as a sentence that names the flag; None if there is none.

        A recipe extends this for its own flags.
        """
        if fault := wrong_value(vars(self), self.ranges):
            return fault
        held_out = ("eval_data",) if self.eval_every or self.decontaminate else ()
        for name in ("model", "data", *held_out):
            if not getattr(self, name).strip():
                return f"--{name} is empty: name a source, or leave the flag out"
        responses = self.prompts_per_step * self.samples_per_prompt
        if self.updates_per_step > responses:
            return f"--updates_per_step is over the {responses} responses of a step"
        return missing_model(self) or missing_extras(self)


def wrong_value(values: dict[str, Any], ranges: dict) -> str | None:
    """The first value that is not in its range, as a sentence that names its flag; else None."""
    for name, value in values.items():
        rule, holds = ranges.get(name, ("", lambda _: True))
        if isinstance(value, float) and not math.isfinite(value):
            return f"--{name} must be finite, not {value}"
        if value is not None and not holds(value):
            return f"--{name} {rule}, not {value}"
    return None


# These may change between two commands on one run folder: they do not change what is computed.
FREE = {
    "out",
    "steps",
    "engine_memory",
    "tokens_per_micro_batch",
    "gradient_checkpointing",
    "offload",
    "save_every",
    "keep_checkpoints",
    "keep_rollouts",
    "check",
    "report_to",
    "push_to_hub",
}


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """--help with each default, and the script's docstring unchanged."""


def parse(config_class: type, presets: dict[str, dict], doc: str):
    """The command line as a checked config: defaults, then a preset's values, then the flags.

    presets: {name: values}; each name is a flag, such as --tiny. A wrong command ends the program
    with one sentence and exit status 2.
    """
    usage = "%(prog)s [--tiny | --small] [--FLAG VALUE ...]"
    parser = argparse.ArgumentParser(
        description=doc, usage=usage, formatter_class=Help, allow_abbrev=False
    )
    comments, kinds = field_comments(config_class), get_type_hints(config_class)
    recipe = parser.add_argument_group("the recipe")
    others = parser.add_argument_group("how it runs, the same for all recipes")
    shared = {field.name for field in fields(Flags)}
    for name, default in vars(config_class()).items():
        text = comments.get(name, "").replace("%", "%%")
        group = others if name in shared else recipe
        group.add_argument(f"--{name}", default=default, help=text, **argument(kinds[name]))
    words = [word for word in sys.argv[1:] if word not in ("-h", "--help")]
    chosen = [name for name in presets if getattr(parser.parse_known_args(words)[0], name)]
    if len(chosen) > 1:
        parser.error(f"--{chosen[0]} and --{chosen[1]} exclude each other: give one of them")
    for name in chosen:
        parser.set_defaults(**presets[name])
    known, unknown = parser.parse_known_args()
    if unknown:
        parser.error(f"unknown argument {unknown[0]}{similar(unknown[0], parser)}")
    config = config_class(**vars(known))
    try:
        check(config)
    except Refused as error:
        parser.error(str(error))
    for sentence in inert_flags(config, sys.argv[1:]):
        print(f"{parser.prog}: {sentence}", file=sys.stderr)
    return config


def check(config: Flags) -> None:
    """Raise Refused, with what to change, if a value makes no sense. Turns -1 (never) into 0."""
    for name in NEVER:
        if getattr(config, name, 0) == -1:
            setattr(config, name, 0)
    if fault := config.fault():
        raise Refused(fault)
    if config.reward:
        load_reward(config.reward)


def argument(kind: Any) -> dict:
    """How argparse reads a field of this type."""
    if kind is bool:
        return {"type": truth, "nargs": "?", "const": True}
    kinds = get_args(kind)
    if get_origin(kind) is Literal:
        return {"type": type(kinds[0]), "choices": kinds}
    if len(kinds) == 2 and kinds[1] is type(None):  # such as float | None
        return {"type": lambda word: None if word == "None" else kinds[0](word)}
    return {"type": kind if kind in (int, float, str, Path) else literal}


def literal(word: str) -> Any:
    """A value as Python writes it, such as 0.9,0.95 or [1, 2]."""
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError) as error:
        raise argparse.ArgumentTypeError(f"not a value as Python writes it: {word}") from error


def truth(word: str) -> bool:
    """ "true" or "false" of a command line. Raises ArgumentTypeError for another word."""
    if word.lower() not in ("true", "yes", "1", "false", "no", "0"):
        raise argparse.ArgumentTypeError(f"true or false, not {word!r}")
    return word.lower() in ("true", "yes", "1")


def similar(flag: str, parser: argparse.ArgumentParser) -> str:
    """A suggestion for an unknown flag, as the end of a sentence."""
    name = flag.partition("=")[0].strip("-").replace("-", "_")
    names = [option.strip("-") for action in parser._actions for option in action.option_strings]
    initials = {"".join(part[0] for part in name.split("_")): name for name in reversed(names)}
    found = did_you_mean(initials.get(name, name), names, before="--")
    return found or "; --help lists them all"


def field_comments(config_class: type) -> dict[str, str]:
    """{field: its comment, on its line or above it}, for a class and its bases."""
    comments = {}
    for base in reversed(config_class.__mro__[:-1]):
        above = []
        for line in inspect.getsource(base).splitlines():
            if found := re.match(r"    (\w+): .*?(?: # (.*))?$", line):
                comments[found[1]] = found[2] or " ".join(above)
            above = [*above, line.strip("# ")] if line.startswith("    # ") else []
    return comments


def missing_extras(config) -> str | None:
    """The fault of --report_to or --push_to_hub, found before anything is loaded."""
    service = config.report_to
    if service != "none" and importlib.util.find_spec(service) is None:
        return f"--report_to {service} needs its package: pip install {service}"
    if config.push_to_hub and huggingface_hub.get_token() is None:
        return "--push_to_hub needs a login to the Hugging Face hub: hf auth login"
    return None


def missing_model(config) -> str | None:
    """The fault of --model that can be found without loading anything; else None."""
    if Path(config.model).expanduser().exists() or config.model.startswith("tiny:"):
        return None
    if fault := unknown_folder(config.model):
        return f"--model {fault}"
    if config.model == type(config).model and not torch.cuda.is_available():
        return (
            "the paper's scale needs a GPU: try --tiny (in Python Config(**TINY)), or --model with "
            "a folder of a small model"
        )
    return None


def unknown_folder(model: str) -> str | None:
    """The fault of a model's name that is no folder here; None for a hub id."""
    path = Path(model).expanduser()
    if path.parent.is_dir() and path.parent != Path("."):
        there = [found.name for found in path.parent.iterdir() if found.is_dir()]
        return f"{model}: no such folder{did_you_mean(path.name, there, before=f'{path.parent}/')}"
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?", model):
        return f"{model} is no folder here, and no hub id (owner/name) either"
    return None
