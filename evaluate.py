"""Measure a model as the papers do: avg@n, maj@n and pass@k on maths benchmarks.

    python evaluate.py hbx/JustRL-DeepSeek-1.5B                   # nine benchmarks, as JustRL does
    torchrun --nproc-per-node 8 -- evaluate.py hbx/JustRL-DeepSeek-1.5B         # on eight GPUs
    python evaluate.py runs/justrl-tiny-seed0 --benchmarks tiny   # a run's last checkpoint
    python evaluate.py --regrade evals/JustRL-DeepSeek-1.5B       # grade the kept answers again
    python evaluate.py --compare evals/base evals/trained         # what training changed
    python evaluate.py --published                                # JustRL's Tables 3 and 5

An evaluation is a folder: generations.jsonl holds every answer, eval.json every number. If it is
killed, run the same command again. It continues where it stopped and ends with the same numbers.
The number of GPUs does not change them either.

Two verifiers grade each answer, the robust one and JustRL's strict box. (JustRL also passes the
answers that its rules reject to a model, which can only raise a score.) The protocols are those of
JustRL (arXiv 2512.16649, section 3.2) and ProRL (arXiv 2505.24864, sections 3.4 and 4).
"""

import argparse
import json
import zlib
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from tools import plot
from tools.evaluation.comparison import RULE, compare, print_comparison, read_evaluation
from tools.evaluation.grading import grade, read_answers
from tools.evaluation.published import print_beside, print_published
from tools.evaluation.statistics import distinct_4gram
from tools.evaluation.tables import evaluation, print_evaluation
from trainer import data
from trainer.errors import Refused
from trainer.policy.loading import compute_dtype, load_reference
from trainer.policy.pretrained import check_folder, context_length, load_tokenizer
from trainer.ranks import from_all_ranks, start_ranks
from trainer.run.files import check_same, checkpoints, digest, read_json, write_json, write_jsonl
from trainer.run.flags import SHARE, at_least, similar, unknown_folder, wrong_value
from trainer.run.launch import launch, model_folder
from trainer.sampler.engine import choose_engine, open_engine, request_seed
from trainer.sources.hub import BENCHMARKS, JUSTRL, LARGE, PRORL
from trainer.sources.load import load_problems

# n: answers to each problem. JustRL samples fewer for the three large benchmarks, large_n.
PROTOCOLS = {
    "justrl": dict(
        benchmarks=JUSTRL,
        n=32,
        large_n=4,
        temperature=0.7,
        top_p=0.9,
        max_tokens=31744,
        suffix=f" {data.STEP_BY_STEP}",
    ),
    "prorl": dict(
        benchmarks=PRORL,
        n=16,
        large_n=16,
        temperature=0.6,
        top_p=0.95,
        max_tokens=32768,
        suffix=f" {data.THINK_STEP_BY_STEP}",
    ),
}
ENGINE_MEMORY = 0.9  # share of the GPU's memory: there is no trainer

# The settings that determine the answers; a continued evaluation must have the same.
CHOICES = ("protocol", "benchmarks", "n", "temperature", "top_p", "max_tokens", "suffix", "system")
CHOICES += ("engine", "dtype", "seed", "limit", "chunk")
RANGES = {
    **dict.fromkeys(("n", "max_tokens", "limit", "chunk"), at_least(1)),
    "temperature": at_least(0),
    "top_p": SHARE,
}


def parse_arguments() -> argparse.Namespace:
    """The command line. A wrong one ends the program with one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=RULE,
        usage="%(prog)s MODEL [--FLAG VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    models = "hub id (or ID@REVISION), model folder, tiny:base, or run folder (its last checkpoint)"
    add("model", nargs="?", metavar="MODEL", help=models)
    add("--protocol", choices=PROTOCOLS, default="justrl", help="whose settings to start from")
    known = ",".join(BENCHMARKS)
    add("--benchmarks", help=f"any of {known}, tiny, tiny/ood, logic:held_out ... (the protocol's)")
    add("--n", type=int, help="answers a problem (justrl: 32, large benchmarks 4; prorl: 16)")
    add("--temperature", type=float, help="sampling temperature (justrl: 0.7; prorl: 0.6)")
    add("--top_p", type=float, help="nucleus of probability (justrl: 0.9; prorl: 0.95)")
    add("--max_tokens", type=int, help="longest answer (justrl: 31744; prorl: 32768)")
    add("--suffix", help="text after a problem (the protocol's sentence; tiny world: none)")
    add("--system", default="", help="system message (none)")
    engines = ("auto", "vllm", "transformers")
    add("--engine", choices=engines, default="auto", help="auto: vllm if there is a GPU")
    dtypes = ("auto", "bfloat16", "float32")
    add("--dtype", choices=dtypes, default="auto", help="auto: bfloat16 on a GPU, else float32")
    add("--seed", type=int, default=0, help="the same seed gives the same answers")
    add("--limit", type=int, help="take only the first LIMIT problems of each benchmark")
    add("--chunk", type=int, default=512, help="answers sampled together, and lost by a kill (512)")
    add("--all", action="store_true", help="evaluate every checkpoint of a run folder")
    files = {"nargs": "+", "action": "extend", "default": [], "metavar": "NAME=FILE"}
    add("--data", **files, help="read this benchmark from a local file")
    add("--out", help="folder to write to and continue from (evals/NAME; --compare: evals)")
    add("--regrade", action="store_true", help="MODEL is an evaluation: grade its answers again")
    compared = "evaluations, as folders or eval.json files: BASE TRAINED [MIDDLE ...]"
    add("--compare", nargs="+", metavar="EVAL", help=compared)
    add("--published", action="store_true", help="print JustRL's Tables 3 and 5; measure nothing")
    args, unknown = parser.parse_known_args()
    if unknown:
        parser.error(f"unknown argument {unknown[0]}{similar(unknown[0], parser)}")
    if fault := wrong_value(vars(args), RANGES):
        parser.error(fault)
    if wrong := [text for text in args.data if "=" not in text]:
        parser.error(f"--data takes NAME=FILE, not {wrong[0]}; put MODEL before it")
    if not (args.model or args.compare or args.published):
        parser.error("say what to measure: evaluate.py MODEL, or --compare BASE TRAINED")
    return args


# --- what is measured ---


def find_models(model: str, every: bool = False) -> list[tuple[str, str]]:
    """[(name, what transformers loads)] for a MODEL of the command line.

    Of a run folder it is the last checkpoint, or every one. Raises Refused, with what to do, if
    there is no such model.
    """
    if model.startswith("tiny:"):
        return [(model.replace(":", "-"), model_folder(model))]
    folder = Path(model)
    if (folder / "metrics.jsonl").exists() or (folder / "checkpoints").is_dir():
        if not (steps := checkpoints(folder)):
            raise Refused(
                f"{model} is a run folder without a checkpoint yet: wait for its first one."
            )
        name = folder.resolve().name
        return [(f"{name}/{step.name}", str(step)) for step in steps[0 if every else -1 :]]
    if every:
        raise Refused(
            f"--all needs a run folder, with metrics.jsonl and checkpoints/, which {model} is not."
        )
    check_folder(folder)
    if not folder.exists() and (fault := unknown_folder(model)):
        raise Refused(fault)
    path = folder.absolute()
    if path.parent.name == "checkpoints":
        return [(f"{path.parents[1].name}/{path.name}", model)]
    return [(path.name, model_folder(model))]


def find_sources(names: list[str], files: dict[str, str]) -> dict[str, str]:
    """{benchmark: what load_problems calls it}. files: the user's own."""
    if unused := files.keys() - set(names):
        raise Refused(f"--data names {', '.join(unused)}, which --benchmarks does not list.")
    sources = {}
    for name in names:
        kind, _, level = name.partition("/")
        if name in files:
            sources[name] = files[name]
        elif kind == "tiny":
            sources[name] = f"tiny:eval/{level or 'mixed'}"
        elif name in BENCHMARKS or name.startswith("logic:"):
            sources[name] = name
        else:
            known = ", ".join(BENCHMARKS)
            raise Refused(f"No benchmark is called {name}: use {known}, tiny, logic:... or --data.")
    return sources


def choose_settings(
    args: argparse.Namespace, name: str, model: str, problems: dict, tokenizer
) -> tuple[dict, dict]:
    """(settings that determine the answers, prompts as {benchmark: [token ids]})."""
    protocol = PROTOCOLS[args.protocol]
    given = {key: getattr(args, key) for key in CHOICES}
    settings = {k: protocol.get(k) if value is None else value for k, value in given.items()}
    # Rank 0 alone keeps the settings. Another model may be saved under the same name.
    weights = sorted(Path(model).glob("*.safetensors")) if dist.get_rank() == 0 else []
    worlds = [bench for bench in problems if bench.split("/")[0] == "tiny" and args.suffix is None]
    settings |= {
        "name": name,
        "model": model,
        "benchmarks": {bench: [len(own), data.fingerprint(own)] for bench, own in problems.items()},
        "n": {b: args.n or protocol["large_n" if b in LARGE else "n"] for b in problems},
        "suffix": {bench: "" if bench in worlds else settings["suffix"] for bench in problems},
        "weights": [digest(file)[:16] for file in weights],
        "engine": choose_engine(args.engine),
    }
    if args.dtype == "auto":
        settings["dtype"] = str(compute_dtype()).removeprefix("torch.")
    prompts = {}
    for bench, own in problems.items():
        template = data.Template(settings["suffix"][bench], args.system)
        encoded = data.encode_prompts(own, tokenizer, template)
        prompts[bench] = [problem.prompt_ids for problem in encoded]
    longest = max(len(prompt) for own in prompts.values() for prompt in own)
    context = context_length(model)
    if context <= longest:
        raise Refused(
            f"The longest prompt has {longest} tokens, and the model's context only {context}: "
            f"choose another model."
        )
    settings["max_tokens"] = min(settings["max_tokens"], context - longest)
    settings["max_length"] = longest + settings["max_tokens"]
    return settings, prompts


def open_folder(out: Path, settings: dict) -> None:
    """Make the folder this evaluation's, or check that it already is.

    Raises Refused if it holds another evaluation, and names the settings that differ, or answers of
    which nobody knows the settings.
    """
    path = out / "settings.json"
    if not path.exists():
        if any(out.glob("generations*.jsonl")):
            raise Refused(f"{out} holds answers without their settings.json: give another --out")
        write_json(path, settings)
    check_same(out, "an evaluation", read_json(path), settings)


# --- sampling ---


def unfinished_chunks(settings: dict, out: Path) -> list[tuple[str, range]]:
    """[(benchmark, indices)], the same list on every rank.

    An unfinished chunk is redone as a whole, so neither a kill nor the number of GPUs changes it.
    """
    done = set(read_answers(out)) if dist.get_rank() == 0 else None
    done = from_all_ranks(done)[0]  # so no rank writes before rank 0 has read
    chunks = []
    for bench, (count, _) in settings["benchmarks"].items():
        size = max(1, settings["chunk"] // settings["n"][bench])
        for start in range(0, count, size):
            indices = range(start, min(start + size, count))
            if any((bench, index) not in done for index in indices):
                chunks.append((bench, indices))
    return chunks


def generate(settings: dict, problems: dict, prompts: dict, tokenizer, out: Path, engine):
    """Sample the missing answers, and append each finished chunk to this rank's file.

    Returns the engine, for the next model, or None if none was needed. If any rank has work, every
    rank makes an engine, because the ranks make vLLM's engine together.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    chunks = unfinished_chunks(settings, out)
    if not chunks:
        return engine
    engine = engine_for(settings, tokenizer, engine)
    chunks.sort(key=lambda chunk: len(chunk[1]) * settings["n"][chunk[0]], reverse=True)
    share = chunks[rank::world]  # the largest first, so that ranks have about equal work
    sampling = data.Sampling(settings["max_tokens"], settings["temperature"], settings["top_p"])
    path = out / ("generations.jsonl" if world == 1 else f"generations.rank{rank}.jsonl")
    count = sum(len(indices) for _, indices in share)
    with path.open("a") as file, tqdm(total=count, unit="problem", disable=rank > 0) as bar:
        if path.stat().st_size > 0:
            file.write("\n")  # ends a line that a kill may have cut off
        for bench, indices in share:
            bar.set_postfix_str(bench)
            place = zlib.crc32(bench.encode())
            seeds = [request_seed(settings["seed"], place, index) for index in indices]
            asked = [prompts[bench][index] for index in indices]
            groups = engine.generate(asked, settings["n"][bench], seeds, sampling)
            for index, group in zip(indices, groups, strict=True):
                record = {"benchmark": bench, "index": index, **asdict(problems[bench][index])}
                record["answers"] = [answer_record(response, tokenizer) for response in group]
                file.write(json.dumps(record) + "\n")
            file.flush()
            bar.update(len(indices))
    return engine


def engine_for(settings: dict, tokenizer, engine):
    """The engine with this evaluation's model. engine: the previous model's, or None."""
    if engine is None:
        return open_engine(
            settings["engine"],
            settings["model"],
            tokenizer,
            max_length=settings["max_length"],
            dtype=getattr(torch, settings["dtype"]),
            memory=ENGINE_MEMORY,
        )
    # vLLM does not reliably free its memory, so the next model moves into the same engine.
    engine.load_weights(load_reference(settings["model"], torch.device("cpu")))
    return engine


def answer_record(response: data.Rollout, tokenizer) -> dict:
    """An answer as in generations.jsonl."""
    return {
        "text": tokenizer.decode(response.response_ids, skip_special_tokens=True),
        "tokens": len(response.response_ids),
        "truncated": response.truncated,
        "distinct_4gram": distinct_4gram(response.response_ids.tolist()),
    }


def merge(out: Path, settings: dict) -> list[dict]:
    """All records in order, written back as one generations.jsonl.

    Raises Refused when some are missing.
    """
    records = read_answers(out)
    counts = settings["benchmarks"].items()
    wanted = [(bench, index) for bench, (count, _) in counts for index in range(count)]
    if missing := len(set(wanted) - records.keys()):
        raise Refused(
            f"{out} lacks {missing} of {len(wanted)} problems: "
            f"run the evaluation again to finish it."
        )
    records = [records[key] for key in wanted]
    write_jsonl(out / "generations.jsonl", records)
    for path in out.glob("generations.rank*.jsonl"):
        path.unlink()
    return records


# --- grading ---


def summarise(out: Path, settings: dict) -> None:
    """Grade every answer, print the tables and write eval.json."""
    records = tqdm(merge(out, settings), desc="grading", unit="problem", leave=False)
    result = evaluation(settings, [grade(record) for record in records])
    write_json(out / "eval.json", result)
    print_evaluation(result)
    print_beside(result)
    print(f"Written to {out}/eval.json")


# --- the commands ---


def evaluate(args: argparse.Namespace) -> None:
    """Sample and grade. Every rank takes a share; rank 0 writes the summary."""
    protocol = PROTOCOLS[args.protocol]
    names = args.benchmarks.split(",") if args.benchmarks else protocol["benchmarks"]
    models = find_models(args.model, args.all)
    files = dict(text.split("=", 1) for text in args.data)
    sources = find_sources(names, files)
    problems = {name: load_problems(source)[: args.limit] for name, source in sources.items()}
    # The embedded worlds' models are so small that threads cost more than they give.
    start_ranks(one_thread=all(source.startswith("tiny:") for source in sources.values()))
    engine, first = None, dist.get_rank() == 0
    for name, model in models:
        out = Path(args.out or "evals")
        if args.all or not args.out:
            out /= name
        tokenizer = load_tokenizer(model)
        settings, prompts = choose_settings(args, name, model, problems, tokenizer)
        if first:
            open_folder(out, settings)
        dist.barrier()  # no rank samples before rank 0 has claimed the folder
        engine = generate(settings, problems, prompts, tokenizer, out, engine)
        dist.barrier()
        if first:
            summarise(out, settings)


def compare_folders(paths: list[str], out: Path) -> None:
    """Print what changed between evaluations, and write compare.json and compare.png."""
    evaluations = [read_evaluation(path) for path in paths]
    result = compare(evaluations)
    print_comparison(result)
    write_json(out / "compare.json", result)
    plot.plot_evals(evaluations, out / "compare.png", result)
    print(f"\nWritten to {out}/compare.json and {out}/compare.png")


def main(args: argparse.Namespace) -> None:
    if args.published:
        print_published()
    elif args.compare:
        compare_folders(args.compare, Path(args.out or "evals"))
    elif args.regrade:
        out = Path(args.model)
        summarise(out, read_json(out / "settings.json"))
    else:
        evaluate(args)


if __name__ == "__main__":
    launch(main, parse_arguments())
