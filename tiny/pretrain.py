"""The embedded world: arithmetic chains as text, a character tokenizer, and small noisy language models to train.

No weights and no datasets can be assumed on a fresh machine, so the repository carries a world of its own, small enough
that a whole RL run takes minutes on a laptop, and like the real one in what the papers' findings are about. A question
is "3+5-2=?" and a good answer makes it shorter, a step a line:

    8-2
    6
    \\boxed{6}

but the models were pretrained on a corpus that also guesses without working, slips in a step (mostly where a sum
crosses ten), writes the answer in ways a strict verifier rejects, works it all out again, and sometimes never stops.
They can do far better than they usually do (pass@k is far above pass@1): without that RL has nothing to find.

Levels go by chain length; ood is longer than any chain in pretraining or in RL. `base` is the noisy corpus alone,
`aligned` the same model after a short instruction tuning on cleaner answers.

The weights are shipped (models/, bfloat16): pretraining is deterministic on one machine, but sums differ between CPUs,
and everybody's figures should start from identical weights. `python tiny.py` builds them again, in about four minutes
on one core; `python tiny.py --size small --out DIR` builds another size, as does base_model("base-small") on first use.
"""

import argparse
import random
import string
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from tokenizers import AddedToken
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm import trange
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from trainer.data import Problem

MODELS = Path(__file__).resolve().parent / "models"
LEVELS = {
    "easy": (2, 3),
    "medium": (4, 4),
    "hard": (5, 6),
    "ood": (7, 8),
}  # operands, shortest and longest
MIXED = ("easy", "medium", "hard")
OPERANDS = range(1, 10)
VALUES = range(
    21
)  # every running value of a chain lies here, so each step is one of about 300 facts
TRAIN_SIZE, EVAL_SIZE, MIXED_EVAL_SIZE = 4000, 240, 300
EVAL_SHARE = 6  # one expression in six is held out


def apply(value: int, op: str, n: int) -> int:
    return value + n if op == "+" else value - n


def split_of(expression: str) -> str:
    """The split an expression belongs to: a function of its text alone, so that no list or corpus can mix the two."""
    return "eval" if zlib.crc32(expression.encode()) % EVAL_SHARE == 0 else "train"


def sample_chain(rng: random.Random, level: str) -> list[tuple[str, int]]:
    """A random chain of (operator, operand); the first operator is "+" and is not written."""
    chain = [("+", rng.choice(OPERANDS))]
    value = chain[0][1]
    for _ in range(rng.randint(*LEVELS[level]) - 1):
        steps = [(op, n) for op in "+-" for n in OPERANDS if apply(value, op, n) in VALUES]
        chain.append(rng.choice(steps))
        value = apply(value, *chain[-1])
    return chain


def write(chain: list[tuple[str, int]]) -> str:
    """[("+", 3), ("+", 5), ("-", 2)] -> "3+5-2"."""
    return "".join(f"{op}{n}" for op, n in chain)[1:]


def solve(chain: list[tuple[str, int]]) -> int:
    return sum(n if op == "+" else -n for op, n in chain)


@cache
def _problems(split: str, level: str) -> tuple[Problem, ...]:
    if level == "mixed":  # interleaved, so that every prefix is a fair blend; repeats nothing
        share = (TRAIN_SIZE if split == "train" else MIXED_EVAL_SIZE) // len(MIXED)
        return tuple(
            p
            for trio in zip(*(_problems(split, name)[:share] for name in MIXED), strict=False)
            for p in trio
        )
    rng, found, size = (
        random.Random(f"{split}/{level}"),
        {},
        TRAIN_SIZE if split == "train" else EVAL_SIZE,
    )
    for _ in range(
        10 * TRAIN_SIZE
    ):  # enough to find most easy expressions; the longer levels fill up first
        expression = write(chain := sample_chain(rng, level))
        if split_of(expression) == split:
            found[expression] = Problem(
                text=f"{expression}=?", answer=str(solve(chain)), task=level
            )
        if len(found) == size:
            break
    return tuple(found.values())


def problems(split: str, level: str) -> list[Problem]:
    """The problems of a split ("train" | "eval") and level ("easy" | "medium" | "hard" | "ood" | "mixed").

    Always the same list in the same order. `mixed` takes turns between easy, medium and hard; task is the problem's own
    level. Raises ValueError for an unknown name, and for ("train", "ood"): those lengths are never trained on.
    """
    if split not in ("train", "eval") or level not in (*LEVELS, "mixed"):
        raise ValueError(
            f'no "{split}/{level}" in the tiny world: use train or eval / {", ".join((*LEVELS, "mixed"))}'
        )
    if (split, level) == ("train", "ood"):
        raise ValueError(
            '"ood" is never trained on: use "eval/ood", or train on easy, medium, hard or mixed'
        )
    return list(_problems(split, level))


@dataclass(frozen=True)
class Style:
    """How a corpus answers; all numbers are probabilities."""

    guess: float  # straight to an answer, without steps
    lucky: float  # a guess is right (else it is near)
    slip: float  # a step that crosses ten goes wrong; any other step EASIER times less often
    recheck: float  # after the last step: work it all out once more
    endless: float  # fall into a loop that never ends
    strict: float  # the answer is a plain \boxed{6}; else one of LOOSE


BASE = Style(guess=0.40, lucky=0.5, slip=0.30, recheck=0.15, endless=0.12, strict=0.32)
ALIGNED = Style(guess=0.35, lucky=0.5, slip=0.30, recheck=0.15, endless=0.10, strict=0.36)

# What a robust verifier accepts and a strict one does not.
LOOSE = (r"\boxed{{ {} }}", r"\boxed{{+{}}}", r"\boxed{{{}.0}}", r"\boxed{{x={}}}", "answer: {}")
EASIER = 6  # how much safer a step is that stays within the ten
LONGEST = 100  # characters of a corpus answer; what is cut here has no end-of-text


def respond(chain: list[tuple[str, int]], style: Style, rng: random.Random) -> tuple[str, bool]:
    """One corpus answer to a chain: its text, and whether it ends (False: it was cut at LONGEST characters)."""
    if rng.random() < style.guess:
        value = solve(chain)
        if rng.random() > style.lucky:
            value = max(0, value + rng.choice((-3, -2, -1, 1, 2, 3)))
        return box(value, style, rng), True
    separator = rng.choice(("\n", "="))
    again = f"wait{separator}{write(chain)}{separator}"
    text, value = work(chain, style, separator, rng)
    if rng.random() < style.endless:
        loop = separator.join(text.split(separator)[-2:]) if rng.random() < 0.5 else again + text
        return (text + LONGEST * loop)[:LONGEST], False
    while rng.random() < style.recheck:
        steps, value = work(chain, style, separator, rng)
        text += again + steps
    text += box(value, style, rng)
    return text[:LONGEST], len(text) <= LONGEST


def work(
    chain: list[tuple[str, int]], style: Style, separator: str, rng: random.Random
) -> tuple[str, int]:
    """The chain made one term shorter, step by step, each step ended by the separator; and the value arrived at."""
    text = ""
    while len(chain) > 1:
        (_, value), (op, n), *rest = chain
        result = apply(value, op, n)
        crosses_ten = value // 10 != result // 10
        if rng.random() < (
            style.slip if crosses_ten else style.slip / EASIER
        ):  # off by one, or the other sign
            result = rng.choice(
                (result - 1, result + 1, apply(value, "-" if op == "+" else "+", n))
            )
            result = min(max(result, VALUES[0]), VALUES[-1])
        chain = [("+", result), *rest]
        text += write(chain) + separator
    return text, solve(chain)


def box(value: int, style: Style, rng: random.Random) -> str:
    return (r"\boxed{{{}}}" if rng.random() < style.strict else rng.choice(LOOSE)).format(value)


def corpus(style: Style, rng: random.Random, size: int) -> list[tuple[str, str, bool]]:
    """`size` fresh (question, answer, ends) triples over the train split of the three levels.

    Some questions end in blanks: a model that has seen every distance between question and answer learns to look at
    what it copies, not at a place, and the longer chains of `ood` are not all lost on it.
    """
    triples = []
    while len(triples) < size:
        chain = sample_chain(rng, rng.choice(MIXED))
        if split_of(write(chain)) == "train":
            question = f"{write(chain)}=?" + " " * rng.choice((0, 0, 0, 0, 1, 2, 3, 4, 5, 6))
            triples.append((question, *respond(chain, style, rng)))
    return triples


PAD, START, END, UNKNOWN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unk|>"
WORDS = (
    r"\boxed{",
    "user",
    "assistant",
    "system",
)  # one token each, to keep prompts and answers short
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = f"{START}user\n{{}}{END}\n{START}assistant\n"  # what the template makes of one question


def make_tokenizer() -> Qwen2Tokenizer:
    """A token per ASCII character and per word of WORDS; decoding gives the text back, less what is not ASCII.

    Qwen2's own byte-level tokenizer without its merges, because transformers opens every Qwen2 folder as one.
    """
    characters = [
        c if c > " " else chr(256 + ord(c)) for c in string.printable if c not in "\x0b\x0c"
    ]
    vocabulary = {
        token: i for i, token in enumerate((PAD, START, END, UNKNOWN, *WORDS, *characters))
    }
    special = dict(pad_token=PAD, eos_token=END, unk_token=UNKNOWN, extra_special_tokens=[START])
    tokenizer = Qwen2Tokenizer(
        vocabulary, merges=[], model_max_length=512, chat_template=CHAT_TEMPLATE, **special
    )
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    return tokenizer


SIZES = {  # hidden size, layers, heads of 32 (vLLM's CPU kernels want 32 or 64), feed-forward size
    "medium": (96, 3, 3, 128),
    "small": (64, 2, 2, 128),
}
BATCH, TYPICAL_LENGTH = 32, 20  # answers, tokens an answer


def make_model(size: str, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    hidden, layers, heads, feed_forward = SIZES[size]
    config = Qwen2Config(
        **dict(vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=True),
        **dict(hidden_size=hidden, num_hidden_layers=layers, intermediate_size=feed_forward),
        **dict(num_attention_heads=heads, num_key_value_heads=heads),
        **dict(
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
    )
    return Qwen2ForCausalLM(config)


def train(
    model: Qwen2ForCausalLM, tokenizer, style: Style, steps: int, lr: float, seed: int, name: str
) -> None:
    """Next-token training on a fresh corpus, BATCH answers a step, loss on the answers alone, learning rate to zero.

    Muon on the matrices: AdamW alone needs several times as long before it keeps its place in a long chain.
    """
    matrices = [p for key, p in model.named_parameters() if p.ndim == 2 and "embed" not in key]
    others = [p for key, p in model.named_parameters() if p.ndim < 2 or "embed" in key]
    optimizers = [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]
    rng, batches, bar = random.Random(f"{name}/{seed}"), [], trange(steps, desc=name)
    for step in bar:
        if not batches:
            batches = length_batches(corpus(style, rng, 32 * BATCH), rng)
        ids_NT, targets_NT = encode_batch(batches.pop(), tokenizer)
        logits_NTV = model(input_ids=ids_NT[:, :-1]).logits
        # Per answer, not per token: batches are of one length, and a mean over tokens would play down the long ones.
        total = cross_entropy(
            logits_NTV.flatten(0, 1),
            targets_NT[:, 1:].flatten(),
            ignore_index=-100,
            reduction="sum",
        )
        loss = total / (BATCH * TYPICAL_LENGTH)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = lr * (
                min(1, step / 50) * (1 - step / steps)
            )  # warm-up, then to zero
            optimizer.step()
            optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def length_batches(
    triples: list[tuple[str, str, bool]], rng: random.Random
) -> list[list[tuple[str, str, bool]]]:
    """Batches of like length in random order: random batches would be mostly padding."""
    triples = sorted(triples, key=lambda triple: len(triple[0] + triple[1]))
    batches = [triples[i : i + BATCH] for i in range(0, len(triples), BATCH)]
    rng.shuffle(batches)
    return batches


def encode_batch(
    triples: list[tuple[str, str, bool]], tokenizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [N, T], padded on the right, and targets [N, T]: the ids of the answers, -100 elsewhere."""
    prompts = tokenizer([PROMPT.format(question) for question, _, _ in triples])["input_ids"]
    answers = tokenizer([answer + (END if ends else "") for _, answer, ends in triples])[
        "input_ids"
    ]
    ids = [torch.tensor(p + a) for p, a in zip(prompts, answers, strict=True)]
    targets = [torch.tensor([-100] * len(p) + a) for p, a in zip(prompts, answers, strict=True)]
    return pad_sequence(ids, True, tokenizer.pad_token_id), pad_sequence(targets, True, -100)


def build(size: str, out: Path, seed: int = 0, steps: int = 2400, tuning_steps: int = 240) -> None:
    """Pretrain `base`, tune it into `aligned`, and save both under `out`, named as base_model names them."""
    torch.manual_seed(seed)
    suffix = "" if size == "medium" else f"-{size}"
    tokenizer = make_tokenizer()
    model = make_model(size, tokenizer)
    for name, style, count, lr in (
        ("base", BASE, steps, 3e-3),
        ("aligned", ALIGNED, tuning_steps, 1e-3),
    ):
        train(model, tokenizer, style, count, lr, seed, name + suffix)
        folder = out / (name + suffix)
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model.float()  # what follows starts from the weights as shipped


def base_model(name: str = "base") -> str:
    """The folder of a starting point: "base" or "aligned" (shipped), or with a size as in "base-small" (built once).

    Raises ValueError for an unknown name.
    """
    kind, _, size = name.partition("-")
    if kind not in ("base", "aligned") or (size and size not in SIZES) or size == "medium":
        raise ValueError(
            f'no tiny model "{name}": use "base", "aligned", "base-small" or "aligned-small"'
        )
    folder = MODELS / ("cache" if size else "") / name
    if not (folder / "tokenizer_config.json").exists():  # what build writes last
        build(size or "medium", folder.parent)
    return str(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rebuild the tiny world's models.")
    parser.add_argument(
        "--size", choices=SIZES, default="medium", help="the repository ships medium"
    )
    parser.add_argument("--out", type=Path, default=MODELS, help="folder for base and aligned")
    parser.add_argument("--seed", type=int, default=0)
    build(**vars(parser.parse_args()))
