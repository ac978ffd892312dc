"""The models of the embedded worlds: a character tokenizer, and small noisy language models.

    python -m tiny.pretrain         rebuilds the shipped models
    python -m tiny.pretrain --family compose --out DIR

A fresh machine may have no weights and no data sets, so the repository carries worlds of its own,
small enough that a whole RL run takes minutes on a laptop. Each world has two starting points: a
model trained on a noisy corpus, and the same model after a short tuning on cleaner answers.

The weights are shipped (models/, bfloat16). Pretraining is deterministic on one machine, but CPUs
round differently, and everybody should start from identical weights. Models called "-small" are
built on first use.

Shape suffixes: _B rows of a batch, _T sequence positions, _V entries of the vocabulary.
"""

import argparse
import fcntl
import random
import string
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from tokenizers import AddedToken
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm import trange
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from tiny import arithmetic, compose

MODELS = Path(__file__).resolve().parent / "models"
Triple = tuple[str, str, bool]  # question, answer, whether the answer ends


@dataclass(frozen=True)
class Phase:
    """One phase of pretraining."""

    world: ModuleType  # arithmetic or compose
    style: arithmetic.Style | compose.Style
    steps: int
    learning_rate: float


STRETCH = {arithmetic: 0, compose: 128}  # the longest gap in positions, see stretch_positions

# Each family is trained in this order. A model starts from the one before it.
FAMILIES = {
    "arithmetic": {
        "base": [Phase(arithmetic, arithmetic.BASE, 2400, 3e-3)],
        "aligned": [Phase(arithmetic, arithmetic.ALIGNED, 240, 1e-3)],
    },
    "compose": {
        "compose": [
            Phase(compose, compose.TEXTBOOK, 2400, 3e-3),
            Phase(compose, compose.BASE, 160, 5e-4),
        ],
        "compose-aligned": [Phase(compose, compose.ALIGNED, 160, 5e-4)],
        "forks": [
            Phase(compose, compose.FORKS_TEXTBOOK, 1000, 3e-3),
            Phase(compose, compose.FORKS, 160, 5e-4),
        ],
        "forks-aligned": [Phase(compose, compose.FORKS_ALIGNED, 160, 5e-4)],
    },
}

PAD, START, END, UNKNOWN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unk|>"
# One token each, so that prompts and answers stay short.
WORDS = (r"\boxed{", "user", "assistant", "system")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = f"{START}user\n{{}}{END}\n{START}assistant\n"  # one question in the template


def make_tokenizer() -> Qwen2Tokenizer:
    """One token for each ASCII character and each word of WORDS. Decoding gives the text back.

    It is Qwen2's byte-level tokenizer without merges.
    """
    printable = [c for c in string.printable if c not in "\x0b\x0c"]
    characters = [c if c > " " else chr(256 + ord(c)) for c in printable]
    tokens = [PAD, START, END, UNKNOWN, *WORDS, *characters]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Qwen2Tokenizer(
        vocabulary,
        merges=[],
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_special_tokens=[START],
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
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=feed_forward,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def train(model: Qwen2ForCausalLM, tokenizer, phase: Phase, *, seed: int, name: str) -> None:
    """Next-token training on a fresh corpus, BATCH answers a step, with the loss on answers only.

    Matrices are trained by Muon: AdamW alone takes several times as long before the model can
    follow a long chain.
    """
    matrices = [p for key, p in model.named_parameters() if p.ndim == 2 and "embed" not in key]
    others = [p for key, p in model.named_parameters() if p.ndim < 2 or "embed" in key]
    rate, decay = phase.learning_rate, 0.01
    optimizers = [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=decay),
    ]
    rng, batches, bar = random.Random(f"{name}/{seed}"), [], trange(phase.steps, desc=name)
    for step in bar:
        if not batches:
            batches = length_batches(phase.world.corpus(phase.style, rng, 32 * BATCH), rng)
        ids_B_T, targets_B_T, positions_B_T = encode_batch(
            batches.pop(), tokenizer, STRETCH[phase.world], rng
        )
        logits_B_T_V = model(input_ids=ids_B_T[:, :-1], position_ids=positions_B_T[:, :-1]).logits
        # A sum, not a mean over tokens: a batch has answers of one length, and a mean would give
        # the tokens of long answers less weight.
        targets = targets_B_T[:, 1:].flatten()
        total = cross_entropy(logits_B_T_V.flatten(0, 1), targets, reduction="sum")
        loss = total / (BATCH * TYPICAL_LENGTH)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        schedule = min(1, step / 50) * (1 - step / phase.steps)  # warm-up, then to zero
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate * schedule
            optimizer.step()
            optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def length_batches(triples: list[Triple], rng: random.Random) -> list[list[Triple]]:
    """Batches of similar length, in random order. Random batches would be mostly padding."""
    triples = sorted(triples, key=lambda triple: len(triple[0] + triple[1]))
    batches = [triples[i : i + BATCH] for i in range(0, len(triples), BATCH)]
    rng.shuffle(batches)
    return batches


def encode_batch(
    triples: list[Triple], tokenizer, stretch: int, rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, targets and positions, each [B, T], padded on the right.

    Targets are the ids of the answers, and -100 elsewhere.
    """
    prompts = tokenizer([PROMPT.format(question) for question, _, _ in triples])["input_ids"]
    answers = [answer + (END if ends else "") for _, answer, ends in triples]
    answers = tokenizer(answers)["input_ids"]
    ids = [torch.tensor(p + a) for p, a in zip(prompts, answers, strict=True)]
    targets = [torch.tensor([-100] * len(p) + a) for p, a in zip(prompts, answers, strict=True)]
    ids_B_T = pad_sequence(ids, True, tokenizer.pad_token_id)
    positions_B_T = torch.arange(ids_B_T.shape[1]).expand_as(ids_B_T)
    if stretch:
        positions_B_T = stretch_positions(positions_B_T, list(map(len, prompts)), stretch, rng)
    return ids_B_T, pad_sequence(targets, True, -100), positions_B_T


def stretch_positions(
    positions_B_T: torch.Tensor, prompt_lengths: list[int], stretch: int, rng: random.Random
) -> torch.Tensor:
    """Put two gaps into each prompt's positions, each of at most `stretch`; none in half the rows.

    When every distance between question and answer occurs, a model learns to attend to what it
    copies and not to a fixed position. So it can follow longer chains than it was trained on.
    """
    positions_B_T = positions_B_T.clone()
    for row, length in zip(positions_B_T, prompt_lengths, strict=True):
        for _ in range(rng.choice((0, 2))):
            row[rng.randint(1, length) :] += rng.randint(0, stretch)
    return positions_B_T


def build(family: str, size: str, out: Path, seed: int = 0) -> None:
    """Pretrain a family of FAMILIES in one size. Save each model in `out` under its name."""
    torch.manual_seed(seed)
    suffix = "" if size == "medium" else f"-{size}"
    tokenizer = make_tokenizer()
    model = make_model(size, tokenizer)
    for name, phases in FAMILIES[family].items():
        for number, phase in enumerate(phases):
            part = f"/{number}" if number else ""
            train(model, tokenizer, phase, seed=seed, name=name + suffix + part)
        folder = out / (name + suffix)
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model.float()  # the next model starts from the weights as saved


def base_model(name: str = "base") -> str:
    """The folder of a shipped model such as "base", or of "base-small", which is built once.

    Raises ValueError for an unknown name.
    """
    known = {kind: family for family, models in FAMILIES.items() for kind in models}
    kind = name.removesuffix("-small")
    if kind not in known:
        names = ", ".join(f'"{kind}"' for kind in known)
        raise ValueError(f'no tiny model "{name}": use {names}, or one of them with "-small"')
    if kind == name:
        return str(MODELS / name)
    folder = MODELS / "cache" / name
    (MODELS / "cache").mkdir(exist_ok=True)
    with open(MODELS / "cache" / f"{known[kind]}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several ranks, the first builds
        if not (folder / "tokenizer_config.json").exists():  # what build writes last
            build(known[kind], "small", folder.parent)
    return str(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rebuild the models of the embedded worlds.")
    parser.add_argument("--family", choices=FAMILIES, help="only this one; default: all")
    parser.add_argument("--size", choices=SIZES, default="medium", help="shipped: medium")
    parser.add_argument("--out", type=Path, default=MODELS, help="folder for the models")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for family in [arguments.family] if arguments.family else FAMILIES:
        build(family, arguments.size, arguments.out, arguments.seed)
