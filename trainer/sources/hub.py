"""Known datasets of the Hugging Face hub, and Lite PPO's training sets."""

import math
import random
import re
from dataclasses import dataclass
from itertools import chain

from trainer.data import Problem, say
from trainer.errors import Refused
from trainer.network import reach_hub
from trainer.sources.rows import collect, known_columns, table_rows


@dataclass(frozen=True, kw_only=True)
class Hub:
    """How to load a hub dataset; rows.py finds its columns.

    task: the name of its problems in reports. configs: read one after another. folders: its configs
    are folders of SPLIT.parquet files that the hub does not know as configs. blanks: it is known to
    have rows without a problem or an answer, which are dropped.
    """

    task: str
    split: str = "train"
    configs: tuple[str | None, ...] = (None,)
    folders: bool = False
    blanks: bool = False


SUBJECTS = (  # of MATH
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
HUB = {
    # Training sets.
    "BytedTsinghua-SIA/DAPO-Math-17k": Hub(task="dapo"),
    "open-r1/DAPO-Math-17k-Processed": Hub(task="dapo", configs=("all",)),
    "openai/gsm8k": Hub(task="gsm8k", configs=("main",)),
    # A public copy of MATH's training set has answers to 7,498 of the 7,500 problems.
    "EleutherAI/hendrycks_math": Hub(task="math", configs=SUBJECTS, blanks=True),
    "agentica-org/DeepScaleR-Preview-Dataset": Hub(task="deepscaler", blanks=True),
    "zwhe99/DeepMath-103K": Hub(task="deepmath"),
    "POLARIS-Project/Polaris-Dataset-53K": Hub(task="polaris", blanks=True),
    "hkust-nlp/SimpleRL-Zoo-Data": Hub(
        task="simplerl", configs=("simplelr_qwen_level3to5",), folders=True, blanks=True
    ),
    # Benchmarks. The name of a benchmark loads its first copy.
    "HuggingFaceH4/aime_2024": Hub(task="aime24"),  # 7 of its 30 answers are zero-padded
    "math-ai/aime24": Hub(task="aime24", split="test"),
    "BytedTsinghua-SIA/AIME-2024": Hub(task="aime24"),  # 30 problems, 32 times each
    "MathArena/aime_2025": Hub(task="aime25"),
    "math-ai/aime25": Hub(task="aime25", split="test"),
    "opencompass/AIME2025": Hub(task="aime25", split="test", configs=("AIME2025-I", "AIME2025-II")),
    "math-ai/amc23": Hub(task="amc23", split="test"),
    "AI-MO/aimo-validation-amc": Hub(task="amc"),  # 83 problems of AMC 12, 2022 and 2023
    "HuggingFaceH4/MATH-500": Hub(task="math500", split="test"),
    "math-ai/minervamath": Hub(task="minerva", split="test"),
    "Hothan/OlympiadBench": Hub(task="olympiad", configs=("OE_TO_maths_en_COMP",)),
    "MathArena/hmmt_feb_2025": Hub(task="hmmt25"),
    "MathArena/brumo_2025": Hub(task="brumo25"),
    "MathArena/cmimc_2025": Hub(task="cmimc25"),
}
# JustRL's nine and ProRL's six, in their order.
LARGE = ["math500", "minerva", "olympiad"]
JUSTRL = ["aime24", "aime25", "amc23", *LARGE, "hmmt25", "brumo25", "cmimc25"]
PRORL = ["aime24", "aime25", "amc", *LARGE]
BENCHMARKS = {
    name: next(hub_id for hub_id, hub in HUB.items() if hub.task == name)
    for name in dict.fromkeys(JUSTRL + PRORL)
}


def load_hub(source: str, solutions: bool = False) -> list[tuple[Problem, dict]]:
    """(Problem, row) pairs of ID, ID:SPLIT or ID:CONFIG/SPLIT.

    Raises Refused if the hub does not give it, and for a wrong row.
    """
    reach_hub()
    import datasets  # takes a second, and only the hub needs it

    hub_id, _, choice = source.partition(":")
    config, _, split = choice.rpartition("/")
    hub = HUB.get(hub_id, Hub(task=hub_id.partition("/")[2]))
    split, rows = split or hub.split, []
    for name in (config,) if config else hub.configs:
        try:
            which = {"name": name, "split": split}
            if hub.folders:
                which = {"data_files": f"{name}/{split}.parquet", "split": "train"}
            part = datasets.load_dataset(hub_id, **which)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise Refused(
                f"{source}: cannot load it from the Hugging Face hub ({reason}); check the network "
                "and the name (ID, ID:SPLIT or ID:CONFIG/SPLIT), or give a local .jsonl, .json or "
                ".parquet file"
            ) from None
        part = part.select_columns(known_columns(source, part.column_names, solutions))
        rows.append(table_rows(part.with_format("arrow").iter(10_000)))
    return collect(source, chain(*rows), hub.task, blanks=hub.blanks, solutions=solutions)


# --- Lite PPO's training sets (arXiv 2508.08221, section 3.1) ---

LITE_PPO_SIZE = 5_000
LITE_PPO_EASY = "hkust-nlp/SimpleRL-Zoo-Data:simplelr_qwen_gsm8k_level1/train"  # and MATH's level 1
LITE_PPO_HARDER = "zwhe99/DeepMath-103K"
TRUE_FALSE = {"true", "false", "yes", "no"}


def load_lite_ppo(level: str, seed: int, solutions: bool = False) -> list[Problem]:
    """5,000 problems of a level. Raises Refused for an unknown level.

    easy: a random part of SimpleRL-Zoo's easy set. medium: the problems of DeepMath-103K with the
    lowest difficulty labels. hard: drawn from DeepMath-103K without replacement, with probability
    proportional to the label.

    The paper removes "excess" True/False problems without saying how many. Here all golds true,
    false, yes and no are removed before the draw: a guess earns half the reward on them, and they
    are 18 % of a public 5k sample of DeepMath. Problems without a positive label are removed too.
    The seed decides the draw and the order of equal labels.
    """
    if level not in ("easy", "medium", "hard"):
        raise Refused(
            f"liteppo:{level}: no such level; choose liteppo:easy, liteppo:medium or liteppo:hard"
        )
    pairs = load_hub(LITE_PPO_EASY if level == "easy" else LITE_PPO_HARDER, solutions)
    pool = []
    for problem, row in pairs:
        rating = 1.0 if level == "easy" else float(row.get("difficulty") or 0)
        bare = re.sub(r"\\text(bf)?|[{}$.\s]", "", problem.answer).lower()
        if rating > 0 and bare not in TRUE_FALSE:
            pool.append((problem, rating))
    rng = random.Random(f"liteppo:{level}:{seed}")
    if level == "medium":
        keys = [(rating, rng.random()) for _, rating in pool]
    else:
        # The smallest of exponential variables is number i with probability rate_i / sum of rates.
        keys = [-math.log(1 - rng.random()) / rating for _, rating in pool]
    chosen = sorted(range(len(pool)), key=keys.__getitem__)[:LITE_PPO_SIZE]
    say(
        f"liteppo:{level}: {len(chosen):,} of {len(pool):,} problems, "
        f"{len(pairs) - len(pool):,} true/false or unrated ones left out"
    )
    # The recipe has its own system message; SimpleRL-Zoo's is only the default of its model.
    return [
        Problem(problem.text, problem.answer, f"liteppo:{level}", solution=problem.solution)
        for problem, _ in (pool[i] for i in chosen)
    ]
