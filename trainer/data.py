"""Problems, their prompts as token ids, and the order in which a run takes them.

    problems = load_problems("BytedTsinghua-SIA/DAPO-Math-17k")
    problems = encode_prompts(problems, tokenizer, Template(suffix), max_tokens=1024)
    order = Order(len(problems), seed=1)
    batch = [problems[i] for i in order[0:256]]

load_problems is in trainer/sources/load.py.
"""

import hashlib
import json
import math
import os
import random
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from tqdm import tqdm

from trainer.errors import Refused

# The recipes and evaluate.py each append one of these instructions. Public datasets contain them,
# too, so a source strips them: a prompt that asks twice is a different prompt.
STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."
THINK_STEP_BY_STEP = "Let's think step by step and output the final answer within \\boxed{}."
INSTRUCTIONS = (
    STEP_BY_STEP,
    THINK_STEP_BY_STEP,
    'Let\'s think step by step and output the final answer after "####".',
)


@dataclass(frozen=True)
class Problem:
    """A problem and its gold answer.

    text: the bare problem, without the wrapper of its dataset. answer: the gold, as text or an int.
    task: the benchmark, level or logic task that it belongs to. verify: what else its reward needs.
    solution: a worked solution, "" unless one was asked for. system: the dataset's own system
    message. history: earlier turns as (role, content), oldest first. prefill: the beginning of the
    answer, which the model continues; it is part of the prompt, not of the response. prompt_ids:
    the whole prompt as token ids, from encode_prompts.
    """

    text: str
    answer: str
    task: str = ""
    verify: dict | None = None
    solution: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()
    prefill: str = ""
    prompt_ids: list[int] = field(default_factory=list)

    def __post_init__(self):
        if type(self.answer) is int:
            object.__setattr__(self, "answer", str(self.answer))
        for name in ("text", "answer"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(f"Problem: {name} must be a string, not {value!r}; write str(...)")

    def completed(self, response: str) -> str:
        """The whole answer, as it is graded: the prefill and the response."""
        return self.prefill + response


@dataclass(frozen=True)
class Template:
    """How a recipe turns a problem into a chat.

    suffix: appended to the problem, in the user's turn. system: the recipe's system message.
    keep_system: keep the system messages of the dataset. A prompt with two system messages, the
    dataset's and the recipe's, gets both in one turn, the dataset's first, with a blank line
    between them.
    """

    suffix: str = ""
    system: str = ""
    keep_system: bool = True


def say(text: str) -> None:
    """Print on rank 0 only, above a progress bar if there is one."""
    if os.environ.get("RANK", "0") == "0":  # set by torchrun
        tqdm.write(text)


# --- lists of problems ---


def fingerprint(problems: list[Problem]) -> str:
    """16 hex digits that depend on every field of every problem, and on their order."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(vars(problem), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


def without(problems: list[Problem], reserved: list[Problem], drop: bool) -> list[Problem]:
    """The problems whose text is not among the reserved ones; all of them if not `drop`.

    Says how many are among them. Spaces, capitals and punctuation do not count. Public training
    sets do contain evaluation problems: 286 of 5,000 problems of DeepMath are in MATH. Raises
    Refused if none is left.
    """
    taken = {_letters(problem.text) for problem in reserved}
    kept = [problem for problem in problems if _letters(problem.text) not in taken]
    if held := len(problems) - len(kept):
        what = "dropped" if drop else "kept (--decontaminate drops them)"
        say(f"{held:,} of {len(problems):,} training problems are evaluation problems: {what}")
    if drop and not kept:
        raise Refused("no training problem is left: name other --data or --eval_data")
    return kept if drop else problems


def _letters(text):
    """Lower-case letters, digits, decimal points and operators: "Find $3 + 5.0$." -> "find3+5.0".

    Operators count, because two problems of MATH differ by one sign.
    """
    return re.sub(r"[^\w+\-*/=<>^!.]|_|(?<!\d)\.|\.(?!\d)", "", text.lower())


# --- prompts ---


def chat_ids(tokenizer, text: str) -> list[int]:
    """Token ids of a chat of one user turn; raises Refused as chat_text does."""
    return tokenizer(chat_text(tokenizer, text), add_special_tokens=False).input_ids


def chat_text(
    tokenizer,
    text: str,
    system: str = "",
    history: tuple[tuple[str, str], ...] = (),
    prefill: str = "",
) -> str:
    """A chat as the tokenizer's template writes it: the user's text, and what is around it.

    Raises Refused if the tokenizer has no chat template, or if its template refuses a turn or
    leaves the system message or the problem out: plain text would not be the prompt that the papers
    use.
    """
    import jinja2  # transformers renders templates with it

    if not tokenizer.chat_template:
        raise Refused(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template; set chat_template in "
            'its tokenizer_config.json ("{% for m in messages %}{{ m.content }}{% endfor %}" gives '
            "plain text)"
        )
    turns = [("system", system)] if system else []
    turns += [*history, ("user", text)] + ([("assistant", prefill)] if prefill else [])
    faults = []
    for in_parts in (False, True):  # some templates want a message as a list of parts
        messages = [
            {"role": role, "content": [{"type": "text", "text": one}] if in_parts else one}
            for role, one in turns
        ]
        ending = {"continue_final_message": True} if prefill else {"add_generation_prompt": True}
        try:
            chat = tokenizer.apply_chat_template(messages, tokenize=False, **ending)
        except (jinja2.TemplateError, TypeError, LookupError, AttributeError) as error:
            faults.append(" ".join(str(error).split()))
        except ValueError:  # transformers does not find the prefill in what the template wrote
            faults.append("it changes the beginning of the answer")
        else:
            parts = {"system message": system, "problem": text}
            lost = [what for what, one in parts.items() if one.strip() not in chat]
            if not lost:
                return chat
            faults.append(f"it leaves the {lost[0]} out")
    raise Refused(
        f"the chat template of {tokenizer.name_or_path!r} cannot write the prompt "
        f"{_beginning(text)}: {faults[0]}"
    )


def encode_prompts(
    problems: list[Problem], tokenizer, template: Template, max_tokens: float = math.inf
) -> list[Problem]:
    """The problems whose prompts fit, with prompt_ids. Longer prompts are dropped, not cut.

    A logic puzzle, which has its own verifier, says how to answer, so it gets no suffix.

    Raises Refused if no prompt fits, and as chat_text does.
    """
    if not problems:
        return []
    if own := sum(bool(problem.system) for problem in problems):
        kept = "kept (a recipe's --keep_system false drops it)"
        what = kept if template.keep_system else "dropped"
        say(f"{own:,} of {len(problems):,} problems have a system message of their own: {what}")
    say_control_tokens(problems, tokenizer)
    chats = []
    for problem in problems:
        text = problem.text if problem.verify else problem.text + template.suffix
        systems = problem.system if template.keep_system else "", template.system
        system = "\n\n".join(dict.fromkeys(filter(None, systems)))  # once if both are the same
        chats.append(chat_text(tokenizer, text, system, problem.history, problem.prefill))
    prompts = tokenizer(chats, add_special_tokens=False, verbose=False).input_ids
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) <= max_tokens]
    if not fits:
        raise Refused(
            f"no prompt of {len(prompts):,} fits in {max_tokens} tokens (the shortest has "
            f"{min(map(len, prompts))}): raise --max_prompt_tokens"
        )
    if dropped := len(prompts) - len(fits):
        say(f"{dropped:,} of {len(prompts):,} prompts are longer than {max_tokens} tokens: dropped")
    return [replace(problems[i], prompt_ids=prompts[i]) for i in fits]


def say_control_tokens(problems: list[Problem], tokenizer) -> None:
    """Say how many problems hold the text of a special token: the model reads it as that token."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    tokens = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
    held = [{token for token in tokens if token in problem.text} for problem in problems]
    if count := sum(map(bool, held)):
        say(
            f"{count:,} of {len(problems):,} problems hold a special token of the tokenizer in "
            f"their text, such as {min(set().union(*held))}: the model reads it as that token, "
            "not as text"
        )


def _beginning(text):
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else text[:37] + "...")


# --- the order ---


@dataclass(frozen=True)
class Order:
    """An endless sequence of the indices 0..size-1: one permutation after another, one an epoch.

    order[a:b] is the list of indices at positions a to b - 1, possibly of several epochs. It
    depends only on size, seed, a and b, so a resumed run needs only its position.
    """

    size: int
    seed: int

    def __post_init__(self):
        if self.size < 1:
            raise ValueError("there is nothing to order: size must be at least 1")

    def __getitem__(self, positions: slice) -> list[int]:
        places = (
            divmod(position, self.size) for position in range(positions.start, positions.stop)
        )
        return [_permutation(self.size, self.seed, epoch)[place] for epoch, place in places]


@lru_cache(maxsize=4)
def _permutation(size, seed, epoch):
    # Python promises to keep random() the same across versions, and no other draw.
    rng = random.Random(f"{seed}:{epoch}")
    return sorted(range(size), key=lambda _: rng.random())


# --- responses ---


@dataclass(frozen=True)
class Sampling:
    """How an engine samples. Temperature 0 is greedy; top_k -1 keeps all tokens."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1


@dataclass(eq=False)
class Rollout:
    """One sampled response. The engine fills in the first four fields, the recipe the others."""

    prompt_ids: np.ndarray  # int32
    response_ids: np.ndarray  # int32, with the final eos if it was sampled
    logps: np.ndarray  # float32, the engine's log-prob of each response token, in nats
    truncated: bool  # cut at the length limit
    text: str = ""  # the decoded response, for the verifier and for readers
    right: float = 0.0  # the verifier's verdict, 0 to 1
    reward: float = 0.0  # the number to train on: the verdict and, in some recipes, a penalty
