"""A rehearsal on imaginary GPUs: would a command crash there, and how much memory would it take?

    python -m bench.rehearse justrl.py                        the paper's run on one GPU of 80 GB
    python -m bench.rehearse justrl.py --small --gpu 24       with any flags of the recipe
    python -m bench.rehearse prorl.py --ranks 8               as under torchrun, on ranks 0 and 7
    python -m bench.rehearse liteppo.py --offload
    python -m bench.rehearse lab.table1
    python -m bench.rehearse evaluate.py

It runs the script's own main() at full size, with CUDA's branches, FSDP2 and bfloat16: a step
with evaluations and a checkpoint, and then again to continue with a second one. Only the number of
prompts, updates and problems is cut down. A tensor on the GPU is fake: it has a shape, a dtype and
a device, and no numbers (imaginary.py). One on the wrong device raises as it would on a GPU, and
the bytes of all that are alive are counted. vLLM is a stand-in that holds weights and cache, sleeps
and wakes, and returns answers that are nearly all as long as they may be.

It prints each stage's peaks and which GPUs the run fits, with RESERVE for what it does not see:
kernels' workspaces, fragmentation, CUDA's context, NCCL's and vLLM's own buffers. It does not see
streams either, nor decisions that depend on a number on the GPU: all of these are 0. It needs g++
and the CPU build of torch. The exit status is 1 if a stage raises.
"""

import argparse
import gc
import importlib.metadata
import multiprocessing
import os
import shutil
import sys
import tempfile
import traceback
import types
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from bench import imaginary  # isort: skip  (before torch)

# What a run imports later is imported here once, and not in every fork.
import pandas  # noqa: F401
import torch
import torch._dynamo
import transformers
import transformers.models.qwen2.modeling_qwen2
import transformers.models.qwen3.modeling_qwen3
from matplotlib.figure import Figure

from bench.common import copy_tokenizer, script_config, script_module
from bench.formula import GB, config_of, engine_tokens
from bench.imaginary import FAKE, GPU
from trainer.run.files import write_jsonl

RESERVE = 4 * GB  # of a GPU, for what a rehearsal cannot see. An allowance: nobody has measured it
CARDS = (24, 40, 80, 141)  # gigabytes


class Engine:
    """The stand-in for vllm.LLM: weights and cache that sleep and wake, and made-up answers."""

    gigabytes: float  # of the GPU

    def __init__(self, model, dtype, max_model_len, gpu_memory_utilization, **_):
        config = transformers.AutoConfig.from_pretrained(model)
        with torch.device("meta"):
            whole = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        self.shapes = {name: x.shape for name, x in whole.state_dict().items()}
        tokens = engine_tokens(config, self.gigabytes, gpu_memory_utilization)
        if tokens < max_model_len:
            raise ValueError(
                f"the cache holds {tokens:,} tokens and not {max_model_len:,}: "
                f"increase gpu_memory_utilization or decrease max_model_len"
            )
        model_config = types.SimpleNamespace(get_vocab_size=lambda: config.vocab_size)
        self.llm_engine = types.SimpleNamespace(model_config=model_config)
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        texts = tokenizer(["1", "\\boxed{7}"], add_special_tokens=False).input_ids
        (self.filling, *_), self.right = texts
        self.host, self.pushes = {}, 0
        self.wake_up()

    def wake_up(self, tags=None) -> None:
        GPU.awake = True
        GPU.look()

    def sleep(self, level: int) -> None:
        """Level 1: the weights wait in pinned host memory, which torch then keeps for the next."""
        GPU.awake = False
        GPU.look()
        if self.host:
            return
        with FAKE:
            self.host = {
                name: torch.empty(shape, dtype=torch.bfloat16)
                for name, shape in self.shapes.items()
            }
        GPU.count(list(self.host.values()))
        for tensor in self.host.values():
            GPU.pin(tensor)

    def collective_rpc(self, method, kwargs) -> None:
        """Reload weights: each must have the name and the shape of one of the model's."""
        assert method == "reload_weights" and GPU.awake
        weights = kwargs["weights_iterator"]
        found = {name: x.to("cuda", torch.bfloat16).shape for name, x in weights}
        assert found == self.shapes, "the pushed weights are not the model's"
        self.pushes += 1

    def apply_model(self, function) -> None:
        function(types.SimpleNamespace(compute_logits=lambda: None))

    def reset_prefix_cache(self) -> None:
        pass

    def generate(self, requests, params, use_tqdm):
        assert GPU.awake, "vLLM sleeps"
        return [self.answers(each) for each in params]

    def answers(self, params):
        """Every second answer is right. Three of four have the full length, the rest nearly.

        Much shorter ones would get smaller micro-batches, and hide the peak of the largest.
        """
        outputs = []
        for i in range(params.n):
            limit = params.max_tokens
            end = self.right if i % 2 == 0 and len(self.right) < limit // 2 else []
            length = limit if i % 4 < 3 else max(1, limit - 8)
            ids = [self.filling] * (length - len(end)) + end
            # Each push but the second changes every log-prob, as self_check expects of a push.
            logprobs = types.SimpleNamespace(logprobs=[-float(self.pushes % 2)] * length)
            reason = "length" if length == limit else "stop"
            outputs.append(
                types.SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason=reason)
            )
        return types.SimpleNamespace(outputs=outputs)


def install_vllm(gigabytes: float) -> None:
    """Make `import vllm` find the stand-in, in a tested version."""
    from trainer.sampler.engine import TESTED_VLLM

    Engine.gigabytes = gigabytes
    sys.modules["vllm"] = types.ModuleType("vllm")
    sys.modules["vllm"].LLM = Engine
    sys.modules["vllm"].SamplingParams = types.SimpleNamespace
    version = importlib.metadata.version
    importlib.metadata.version = lambda package: (
        next(iter(TESTED_VLLM)) if package == "vllm" else version(package)
    )


def model_folder(folder: Path, name: str, layers: int | None) -> Path:
    """A folder with the config.json of a known model, and the embedded world's tokenizer."""
    out = folder / name.split("/")[-1]
    out.mkdir(exist_ok=True)
    copy_tokenizer(out)
    changes = {"max_position_embeddings": 2**17, "eos_token_id": 2}
    changes |= {"num_hidden_layers": layers} if layers else {}
    config_of(name, **changes).save_pretrained(out)
    return out


def problems_file(folder: Path, model: Path, tokens: int, count: int) -> str:
    """Problems whose prompts have nearly that many tokens. The stand-in answers 7 to all."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    empty = tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
    room = tokens - len(tokenizer(empty).input_ids) - 16
    rows = [{"problem": f"{n}" + "1" * max(1, room - 4), "answer": "7"} for n in range(count)]
    path = folder / f"problems-{count}.jsonl"
    write_jsonl(path, rows)
    return str(path)


def cut_down(config, arguments, out: Path, steps: int):
    """The config with as few prompts, updates and problems as still show every peak."""
    folder, ranks = out.parent, arguments.ranks
    model = model_folder(folder, config.model, arguments.layers)
    problems, held_out = (
        problems_file(folder, model, config.max_prompt_tokens, count) for count in (64, ranks)
    )
    updates = min(2, config.updates_per_step)
    longest = config.max_prompt_tokens + config.max_response_tokens
    rows = max(1, config.tokens_per_micro_batch // longest)  # of a micro-batch
    # The same number for every rank, because each assumes that the others are like it.
    prompts = ranks * -(-2 * rows * updates // config.samples_per_prompt)
    config.prompts_per_step = min(config.prompts_per_step, prompts)
    few = {"model": str(model), "data": problems, "eval_data": held_out, "decontaminate": False}
    few |= {"instruction": "", "out": str(out), "eval_samples": 2, "steps": steps}
    few |= {"updates_per_step": updates, "save_every": 1, "reset_every": 1}
    few |= {"eval_every": min(1, config.eval_every), "logic_weight": 0.0}
    for name, value in few.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


def prepared(arguments, flags: list[str], out: Path, steps: int):
    """The script's main, and what to call it with."""
    module = script_module(arguments.script)
    if hasattr(module, "Config"):
        config = script_config(arguments.script, flags)
        return module.main, cut_down(config, arguments, out, steps)
    model = model_folder(out.parent, "DeepSeek-R1-Distill-Qwen-1.5B", arguments.layers)
    problems = problems_file(out.parent, model, 1024, arguments.ranks)
    sys.argv = [arguments.script, str(model), *flags, "--out", str(out)]
    sys.argv += ["--benchmarks", "aime24", "--data", f"aime24={problems}", "--n", "2"]
    return module.main, module.parse_arguments()


def watch() -> None:
    """Tell the imaginary GPU which phase the run is in."""
    from trainer.run.run import Run

    def watched(method: str, stage: str | None):
        real = getattr(Run, method)

        def run_method(self, *arguments, **options):
            GPU.stage = stage or arguments[0] or "other"
            GPU.look()
            return real(self, *arguments, **options)

        setattr(Run, method, run_method)

    watched("phase", None)
    watched("resume", "resume")
    watched("save_when_due", "save")


def rehearse(arguments, flags: list[str], rank: int, out: Path, steps: int) -> dict:
    """Run one rank, without its output, in this process, which must not run another one later.

    Returns {"peaks": [[stage, engine awake, bytes of the GPU, bytes of the host]], "share": the
    engine's of the GPU, "fault": the end of the traceback if it has failed, else ""}.
    """
    imaginary.imagine(arguments.gpu, rank, arguments.ranks, out.parent / f"objects-{steps}")
    install_vllm(arguments.gpu)
    watch()
    share, fault = 0.0, ""
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said), GPU:
        try:
            main, config = prepared(arguments, flags, out, steps)
            share = getattr(config, "engine_memory", 0.9)
            main(config)
        except SystemExit as end:  # of a wrong flag, or model
            fault = end.code if isinstance(end.code, str) else said.getvalue()
        except BaseException:
            fault = traceback.format_exc()[-9000:]
    peaks = [[*key, peak["cuda"], peak["cpu"]] for key, peak in GPU.peaks.items()]
    return {"peaks": peaks, "share": share, "fault": fault}


def show(facts: dict, card: float) -> None:
    """Print a rank's stages, and which cards it fits, or what went wrong."""
    print(f"{'gigabytes at most':24}{'trainer':>10}{'engine':>10}{'host':>10}")
    for stage, awake, gpu, host in facts["peaks"]:
        engine = facts["share"] * card if awake else 0.0
        name = f"{stage}{', engine awake' if awake else ''}"
        print(f"{name:24}{gpu / GB:10.2f}{engine:10.2f}{host / GB:10.2f}")
    if facts["fault"]:
        print(facts["fault"])
        return
    verdicts = []
    for card in CARDS:
        engine = facts["share"] * card * GB
        need = RESERVE + max(gpu + engine * awake for _, awake, gpu, _ in facts["peaks"])
        verdicts.append(f"{card} GB: {'fits' if need <= card * GB else 'no'} ({need / GB:.1f})")
    print(f"With {RESERVE / GB:.0f} GB in reserve. {', '.join(verdicts)}", flush=True)


def rehearsals(arguments, flags: list[str], runs: tuple = (1, 2), others: bool = True):
    """Yield (step, rank, facts) of a command on its first and last rank, then of its continuation.

    runs: the step to which each run goes. others: whether the last rank is rehearsed too.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    Figure.savefig = lambda _, path, **__: Path(path).touch()  # drawing takes seconds, and no GPU
    module = script_module(arguments.script)  # once, not in each fork
    runs = runs if hasattr(module, "Config") else runs[:1]  # evaluate.py leaves nothing to continue
    fork = multiprocessing.get_context("fork")
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:
        first, last = Path(folder, "first"), Path(folder, "last")  # where the two ranks run
        first.mkdir()
        for steps in runs:
            shutil.copytree(first, last)  # both begin with the first one's checkpoint
            for rank in sorted({0, arguments.ranks - 1 if others else 0}):
                what = arguments, flags, rank, last if rank else first, steps
                with ProcessPoolExecutor(1, fork) as child:  # it has imported everything
                    facts = child.submit(rehearse, *what).result()
                yield steps, rank, facts
                if facts["fault"]:
                    return  # the other rank needs what this one would have broadcast
            shutil.rmtree(last)


def arguments_of(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """This command's own arguments, and the script's flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", help="justrl.py, prorl.py, liteppo.py, lab.table1, evaluate.py")
    parser.add_argument("--ranks", type=int, default=1, help="as under torchrun (1)")
    parser.add_argument("--gpu", type=float, default=80, help="gigabytes of each GPU (80)")
    parser.add_argument("--layers", type=int, help="fewer than the model's, for a quick look")
    arguments, flags = parser.parse_known_args(words)
    if arguments.ranks < 1:
        parser.error(f"--ranks must be at least 1, not {arguments.ranks}")
    return arguments, flags


def main() -> None:
    arguments, flags = arguments_of(sys.argv[1:])
    well = True
    for steps, rank, facts in rehearsals(arguments, flags):
        what = "a step" if steps == 1 else "continued"
        print(f"\n{' '.join(sys.argv[1:])}: {what}, rank {rank} of {arguments.ranks}")
        show(facts, arguments.gpu)
        well &= not facts["fault"]
    sys.exit(not well)


if __name__ == "__main__":
    main()
