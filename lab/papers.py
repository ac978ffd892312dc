"""What the papers claim: for each experiment the arms to compare and the inequalities to test.

An arm is a command line of one of the scripts. A claim names arms that a paper predicts to show
more of a metric than others. Nothing is tuned for an arm: what all arms share was fixed before any
two of them were compared. lab/README.md says in words what a paper claims and what was found.
"""

import json
import shlex
from dataclasses import dataclass, field

from lab import systems

# What all arms of an experiment share, if it names nothing else.
COMMON = """--tiny --engine transformers --prompts_per_step 16 --samples_per_prompt 8
 --learning_rate 1e-4 --warmup_steps 10 --eval_samples 2 --keep_checkpoints 3"""


@dataclass(frozen=True)
class Claim:
    """A higher mean of the metric is predicted for some arms than for others.

    Two arms on each side that differ in two things make a difference of differences. Above 0, the
    metric itself is predicted to be positive.
    """

    sentence: str  # "METRIC: ARM & ARM > ARM"; without a facet, an arm has that of the one before
    deck: str = ""  # the sentence of the deck (docs/papers.md) that it tries
    extends: bool = False  # our question, not a paper's
    apart: str = ""  # why it is not counted: what it could not fail to show

    @property
    def metric(self) -> str:
        return self.sentence.partition(": ")[0]

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        """The arms predicted to show more, and those predicted to show less."""
        facet, sides = "", ([], [])
        words = self.sentence.partition(": ")[2].removesuffix(" > 0")
        for side, names in zip(sides, words.split(" > "), strict=False):
            for name in names.split(" & "):
                own, label = split(name)
                facet = own or facet
                side.append(f"{facet}: {label}" if facet else label)
        return sides


def claims(text: str) -> tuple[Claim, ...]:
    """The claims in a text, a sentence each.

    Lines below a sentence say more of the claim: "deck: ...", "apart: ..." or "extends".
    """
    found = []
    for line in text.strip().splitlines():
        line = " ".join(line.split())
        name, _, value = line.partition(": ")
        if name in ("deck", "apart", "extends"):
            found[-1][name] = value or True
        else:
            found.append({"sentence": line})
    return tuple(Claim(**one) for one in found)


@dataclass(frozen=True)
class Experiment:
    arms: dict[str, str]  # {"FACET: LABEL" or "LABEL": script and flags}
    claims: tuple[Claim, ...]
    steps: int
    seconds: int  # of one run on one idle core, evaluations included
    panels: tuple[str, ...] = ()  # the metrics to draw
    common: str = COMMON  # flags of all arms, after the script
    schedule: str = "--steps {steps} --eval_every {eighth} --save_every {half}"
    tokens: int = 0  # sampled tokens a run, for `eval_accuracy at equal tokens`
    budget: int = 0  # sampled tokens that end a run, instead of its steps
    evaluate: str = ""  # flags for evaluate.py
    points: dict[str, str] = field(default_factory=dict)  # what it measures: {name: model}
    tasks: tuple[str, ...] = ()  # benchmarks whose pass@k is drawn


def split(arm: str) -> tuple[str, str]:
    """The facet of an arm, "" if it has none, and its label."""
    facet, _, label = arm.rpartition(": ")
    return facet, label


def cross(facets: dict[str, str], labels: dict[str, str]) -> dict[str, str]:
    """The arms of every facet with every label."""
    return {
        f"{facet}: {label}": f"{command} {flags}"
        for facet, flags in facets.items()
        for label, command in labels.items()
    }


# --- pieces of command lines ---

# Eight updates a batch: with few, ratios stay near 1 and meet no bound of the clip, so that arms
# with other bounds cannot differ.
LITEPPO = "liteppo.py --updates_per_step 8"
# The papers' four updates a batch.
JUSTRL = "justrl.py --updates_per_step 4"
PRORL = "prorl.py --updates_per_step 4 --reset_patience 0"
# prorl.py --tiny starts in the world of compositions.
MIXED = """--model tiny:aligned --data tiny:train/mixed --eval_data tiny:eval/mixed
 --max_response_tokens 64 --eval_max_tokens 64"""
EASY, HARD = (
    f"--data tiny:train/{level} --eval_data tiny:eval/{level}" for level in ("easy", "hard")
)
LAST, MIDDLE = "{run}/checkpoints/step_{steps:06d}", "{run}/checkpoints/step_{half:06d}"


def depths(low: int, high: int) -> str:
    """Problems of these depths, with room for the longest working, of 8 tokens a line and a box."""
    room = 8 * high + 16
    return f"""--data tiny:train/compose-{low}-{high} --eval_data tiny:eval/compose-{low}-{high}
 --max_prompt_tokens 64 --max_response_tokens {room} --eval_max_tokens {room}"""


EXPERIMENTS = {}

# --- Tricks or Traps (arXiv 2508.08221) ---

SCALES = ("group/group", "group/batch", "group/none", "batch/batch", "batch/none")
EXPERIMENTS["normalization"] = Experiment(
    arms=cross(
        {"easy": EASY, "hard": HARD},
        {
            name: f"{LITEPPO} --center {name.split('/')[0]} --scale {name.split('/')[1]}"
            for name in SCALES
        },
    ),
    claims=claims("""
        reward_std: hard: group/group > easy: group/group
            apart: a property of the data
        grad_growth: easy: group/group > group/none
        eval_accuracy: easy: batch/none > batch/batch
            deck: Easy data: better without the std
        eval_accuracy: easy: group/none > group/group
        eval_accuracy: easy: batch/none & hard: batch/batch > easy: batch/batch & hard: batch/none
        eval_accuracy: easy: group/none & hard: group/group > easy: group/group & hard: group/none
        eval_accuracy: easy: group/batch > group/group
            deck: Group mean with batch std is best, easy data
        eval_accuracy: hard: group/batch > group/group
            deck: Group mean with batch std is best, hard data
        eval_accuracy: easy: group/group & hard: group/group > easy: batch/batch & hard: batch/batch
    """),
    panels=("eval_accuracy", "reward_std", "grad_norm", "entropy"),
    steps=40,
    seconds=40,
)

# --- the same, in the world of forks ---

FORKS, FORKS_ALIGNED = "--model tiny:forks", "--model tiny:forks-aligned"
# Settings at which one token in a hundred meets the bound in the 0.20 arm; it alone was looked at.
# An update takes four answers, and the steps end while accuracy still rises.
CLIPPED = f"""liteppo.py {depths(1, 4)} --prompts_per_step 64 --updates_per_step 128
 --learning_rate 5e-5 --warmup_steps 4 --eval_samples 4"""
PREMISE = "the paper's premise, that a base model hardly meets the bound, was removed"
EXPERIMENTS["clip_higher"] = Experiment(
    arms=cross(
        {"base": FORKS, "aligned": FORKS_ALIGNED},
        {bound: f"{CLIPPED} --clip_high {bound}" for bound in ("0.20", "0.28", "0.32")},
    )
    | cross(
        {"aligned, small": f"{FORKS_ALIGNED}-small"},
        {bound: f"{CLIPPED} --clip_high {bound}" for bound in ("0.28", "0.32")},
    ),
    claims=claims(f"""
        entropy: aligned: 0.28 > 0.20
        eval_accuracy: aligned: 0.28 > 0.20
            deck: Clip-higher helps an aligned model
        eval_accuracy: base: 0.20 > 0.28
            apart: {PREMISE}
        eval_accuracy: aligned: 0.28 & base: 0.20 > aligned: 0.20 & base: 0.28
            deck: CH(Base) < CH(Aligned)
            apart: {PREMISE}
        entropy: aligned: 0.28 & base: 0.20 > aligned: 0.20 & base: 0.28
            apart: {PREMISE}
        eval_accuracy: aligned: 0.28 > 0.32
            deck: Larger model: accuracy at 0.32 < at 0.28
        eval_accuracy: aligned, small: 0.32 > 0.28
            deck: Small model: accuracy at 0.32 > at 0.28
    """),
    panels=("eval_accuracy", "entropy", "clip_fraction_high"),
    steps=6,
    seconds=25,
)

EXPERIMENTS["aggregation"] = Experiment(
    arms=cross(
        {
            "base, easy": f"{FORKS} {depths(1, 3)}",
            "base, hard": f"{FORKS} {depths(2, 10)}",
            "aligned, easy": f"{FORKS_ALIGNED} {depths(1, 3)}",
            "aligned, hard": f"{FORKS_ALIGNED} {depths(2, 10)}",
        },
        {how: f"{LITEPPO} --aggregation {how}" for how in ("token", "sequence")},
    ),
    claims=claims("""
        eval_accuracy: base, easy: token > sequence
        eval_accuracy: base, hard: token > sequence
            deck: Base model: token-level loss
        eval_accuracy: base, hard: token & base, easy: sequence \
            > base, hard: sequence & base, easy: token
        eval_accuracy: aligned, easy: sequence > token
            deck: Aligned model: sequence-level loss
        eval_accuracy: aligned, hard: sequence > token
    """),
    panels=("eval_accuracy", "length", "entropy"),
    steps=24,
    seconds=40,
)

LIMITS = {limit: f"--max_response_tokens {limit} --eval_max_tokens {limit}" for limit in (32, 96)}
FILTERS = {
    name: f"{LITEPPO} {HARD} --overlong_filter {name == 'filter'}" for name in ("filter", "none")
}
EXPERIMENTS["overlong_filter"] = Experiment(
    arms=cross({f"limit {limit}": flags for limit, flags in LIMITS.items()}, FILTERS),
    claims=claims("""
        eval_accuracy: limit 32: filter > none
            deck: 8k threshold: substantial benefits
        eval_accuracy: limit 32: filter & limit 96: none > limit 32: none & limit 96: filter
            deck: 20k threshold: diminished benefits
        length: limit 32: none > filter
            deck: 8k threshold: shorter responses
        length: limit 96: filter > none
            deck: 20k threshold: longer responses
    """),
    panels=("eval_accuracy", "truncated", "length"),
    steps=40,
    seconds=40,
)
EXPERIMENTS["overlong_repeats"] = Experiment(
    arms=cross(
        {f"limit {limit}": f"--model tiny:aligned {f}" for limit, f in LIMITS.items()}, FILTERS
    ),
    claims=claims("""
        final_repeats hard: limit 96: none > filter
            deck: 20k threshold: filters repeats without end
        final_repeats hard: limit 32: none > filter
            extends
    """),
    panels=("eval_accuracy", "truncated", "length"),
    steps=40,
    seconds=80,
    evaluate="--benchmarks tiny/hard --n 8 --temperature 1.0 --top_p 1.0 --max_tokens 96",
    points={"after": LAST},
)

# Sampling by temperature alone, as dynamic sampling has it here; DAPO's rewards are 1 and -1.
SAMPLED = """--updates_per_step 8 --model tiny:base --max_response_tokens 64 --eval_max_tokens 64
 --weight_decay 0 --temperature 0.99 --eval_temperature 0.99 --eval_top_p 0.99"""
APART = f"-m lab.table1 {SAMPLED} --robust_verifier --dual_clip 1e9"
LITE = f"{APART} --advantage lite --clip_high 0.2 --wrong_reward 0"
DAPO = f"{APART} --clip_high 0.28 --overlong_penalty"
RESAMPLE = "--dynamic_sampling resample"
# ProRL's script as DAPO: it has everything but the overlong shaping.
NO_SHAPING = (
    f"prorl.py {SAMPLED} --kl_coefficient 0 --reset_every 0 --reset_patience 0 --clip_high 0.28"
)
EQUAL = "eval_accuracy at equal tokens"
EXPERIMENTS["lite_ppo"] = Experiment(
    arms=cross(
        {"easy": EASY, "hard": HARD},
        {
            "Lite PPO": LITEPPO,
            "GRPO": f"{LITEPPO} --scale group --aggregation sequence",
            "DAPO, no shaping": NO_SHAPING,
        },
    )
    | cross(
        {"easy, taken apart": EASY, "hard, taken apart": HARD},
        {
            "Lite PPO": LITE,
            "Lite PPO + DS": f"{LITE} {RESAMPLE}",
            "DAPO": f"{DAPO} {RESAMPLE}",
            "DAPO - DS": DAPO,
        },
    ),
    claims=claims("""
        eval_accuracy: easy: Lite PPO > GRPO
            deck: Lite PPO above GRPO, easy data
        eval_accuracy: hard: Lite PPO > GRPO
            deck: Lite PPO above GRPO, hard data
        eval_accuracy: easy, taken apart: Lite PPO > DAPO
            deck: Lite PPO above DAPO, easy data
        eval_accuracy: hard, taken apart: Lite PPO > DAPO
            deck: Lite PPO above DAPO, hard data
        eval_accuracy at equal tokens: easy, taken apart: Lite PPO > DAPO
            extends
        eval_accuracy: easy, taken apart: Lite PPO + DS > Lite PPO
            extends
        eval_accuracy at equal tokens: easy, taken apart: Lite PPO + DS > Lite PPO
            extends
        eval_accuracy: easy, taken apart: Lite PPO > DAPO - DS
            extends
    """),
    panels=("eval_accuracy", "entropy", "length"),
    steps=56,
    seconds=47,
    tokens=90_000,
)

# --- JustRL (arXiv 2512.16649) ---

CEILING = "every arm reaches 0.99 there"
INERT = "few answers are so long that the penalty could act"
EXPERIMENTS["justrl_ablations"] = Experiment(
    arms={
        "recipe": JUSTRL,
        "penalty": f"{JUSTRL} --overlong_penalty True",
        "penalty + verifier": f"{JUSTRL} --overlong_penalty True --robust_verifier True",
        "verifier": f"{JUSTRL} --robust_verifier True",
    },
    claims=claims(f"""
        final_accuracy ood: recipe > penalty
            deck: With the overlong penalty: worse
            apart: {INERT}
        entropy: recipe > penalty
            apart: {INERT}
        final_accuracy ood: penalty > penalty + verifier
            deck: With the robust verifier on top: worse still
        entropy: recipe > penalty + verifier
        final_accuracy ood: recipe > verifier
            extends
        final_accuracy tiny: recipe > penalty
            apart: {CEILING}
        final_accuracy tiny: recipe > penalty + verifier
            apart: {CEILING}
        final_accuracy tiny: recipe > verifier
            apart: {CEILING}
    """),
    panels=("eval_accuracy", "entropy", "length", "truncated"),
    steps=56,
    seconds=55,
    evaluate="--benchmarks tiny,tiny/ood --n 8 --max_tokens 96",
    points={"after": LAST},
)

# The batch of the systems in the embedded world: 128 responses.
BATCH = "-m lab.table1 --prompts_per_step 16 --samples_per_prompt 8"
HALF = 5  # of JustRL's eleven steps


def stages(*rows: dict) -> str:
    return f"{BATCH} --stages {shlex.quote(json.dumps(list(rows)))}"


TECHNIQUES = {
    "JustRL": BATCH,
    # One technique more. Values are those of the systems that have it, where they make sense here.
    "EC entropy bonus": f"{BATCH} --entropy_coef 1e-3",
    "EC entropy target": f"{BATCH} --entropy_target 0.3 --entropy_step 1e-3",
    "THP n 8 to 16": stages({"until": HALF}, {"samples_per_prompt": 16, "prompts_per_step": 8}),
    "RKL KL, hard resets": f"{BATCH} --kl_coefficient 1e-3 --reset_every 4",
    "LC overlong penalty": f"{BATCH} --overlong_penalty",
    "LC cosine, cycled": f"{BATCH} --wrong_reward 0 --truncated_scale 0 --cosine_weight 0.1 "
    "--cosine_on 2 --cosine_off 4",
    "LC and ST caps 32 to 64": stages({"until": HALF, "max_response_tokens": 32}, {}),
    "AT adaptive temperature": f"{stages({'until': HALF}, {})} --adaptive_temperature",
    "RR rollout rescue": f"{BATCH} --rollout_rescue",
    "DS resample": f"{BATCH} {RESAMPLE}",
    "DS substitute": f"{BATCH} --dynamic_sampling substitute",
    "ST hints 50 % to 25 %": stages({"until": HALF, "hint_share": 0.5}, {"hint_share": 0.25}),
    # One fewer, or another advantage or loss in the place of GRPO's.
    "JustRL without clip-higher": f"{BATCH} --clip_high 0.2",
    "pass@4 training": f"{BATCH} --advantage pass@k",
    "MaxRL": f"{BATCH} --advantage maxrl --wrong_reward 0",
    "REINFORCE, no ratio, no clip": f"{BATCH} --loss reinforce",
}
TECHNIQUES |= {
    name: f"-m lab.table1 --row {name}" for name in systems.ROWS if not name.startswith("justrl")
}
TECHNIQUES["prorl-v1"] += " --eval_every 2"  # its resets are decided by evaluations
SAME = "its bound is met by 0.2 % of the tokens, so that the arms cannot differ"
# lab/complexity.jsonl has the first 64 problems of tiny:train/mixed.
EXPERIMENTS["complexity"] = Experiment(
    arms=TECHNIQUES,
    claims=tuple(
        Claim(
            f"eval_accuracy: JustRL > {name}",
            extends=name not in systems.ROWS,
            apart=SAME if name == "JustRL without clip-higher" else "",
        )
        for name in TECHNIQUES
        if name != "JustRL"
    ),
    steps=11,
    seconds=8,
    common="--tiny --engine transformers --data lab/complexity.jsonl --warmup_steps 2 "
    "--eval_samples 2",
    schedule="--steps {steps} --token_budget {budget} --eval_every 1000000 --save_every 0",
    budget=24_000,
)

# --- ProRL (arXiv 2505.24864) ---

RESET, PENALTY = "--reset_every 24", f"{PRORL} {MIXED} --kl_coefficient"
COPIED = "the reference has just been copied from the policy"
EXPERIMENTS["prorl_reset"] = Experiment(
    arms={
        "no KL": f"{PENALTY} 0 --reset_every 0",
        "KL 1e-4": f"{PENALTY} 1e-4 --reset_every 0",
        "KL 1": f"{PENALTY} 1 --reset_every 0",
        "KL 1e-4, resets": f"{PENALTY} 1e-4 {RESET}",
        "KL 1, resets": f"{PENALTY} 1 {RESET}",
        "KL 1, resets, optimizer kept": f"{PENALTY} 1 {RESET} --reset_optimizer False",
    },
    claims=claims(f"""
        entropy: KL 1e-4 > no KL
            deck: KL sustains entropy, coefficient 1e-4
        entropy: KL 1 > no KL
            deck: KL sustains entropy, coefficient 1
        kl_loss_share: KL 1e-4 > KL 1e-4, resets
            apart: {COPIED}
        kl_loss_share: KL 1 > KL 1, resets
            apart: {COPIED}
        eval_accuracy: KL 1e-4, resets > KL 1e-4
            deck: Resets: continue to improve, coefficient 1e-4
        eval_accuracy: KL 1, resets > KL 1
            deck: Resets: continue to improve, coefficient 1
        eval_accuracy: KL 1e-4, resets > no KL
            extends
        eval_accuracy: KL 1, resets > no KL
            extends
        eval_accuracy: KL 1, resets > KL 1, resets, optimizer kept
            extends
    """),
    panels=("eval_accuracy", "kl_loss_share", "kl", "entropy"),
    steps=72,
    seconds=62,
)

# --- the world of compositions ---

COMPOSE = "--data tiny:train/compose --eval_data tiny:eval/compose"
DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14)
TRAINED = "RL raises accuracy in the world that it trains in"
EXPERIMENTS["prorl_boundary"] = Experiment(
    # Sixteen samples, as in the paper. A problem that is solved once in a hundred answers hardly
    # ever gets a mixed group of eight, so dynamic sampling would have little to train on.
    arms={"ProRL": f"{PRORL} {RESET} --samples_per_prompt 16 --model tiny:compose {COMPOSE}"},
    claims=claims(f"""
        rise@1 compose-1: ProRL > 0
            apart: {TRAINED}
        rise@1 compose-8: ProRL > 0
            apart: {TRAINED}
        rise@128 compose-1: ProRL > 0
            apart: all problems were solved within 128 before
        rise@128 compose-8: ProRL > 0
            deck: RL unlocks new capabilities: trained depth 8
        rise@128 compose-10: ProRL > 0
            deck: Insight 3: out of distribution, depth 10
        rise@128 compose-12: ProRL > 0
            deck: Insight 3: out of distribution, depth 12
        rise@128 compose-14: ProRL > 0
        rise@1 compose-10: ProRL > 0
        rise@1 compose-12: ProRL > 0
        rise@1 compose-14: ProRL > 0
        shift@1 compose-10: ProRL > 0
            deck: Insight 4: pass@1 shifts to the right, depth 10
        shift@1 compose-12: ProRL > 0
            deck: Insight 4: pass@1 shifts to the right, depth 12
        weak_start_strong_gain: ProRL > 0
            deck: Insight 1: the weaker the start, the stronger the gain
            apart: where all is solved after, the gain is 1 minus the start; three depths are left
    """),
    steps=40,
    seconds=300,
    evaluate="--temperature 1.0 --top_p 1.0 --max_tokens 128 --n 128 --limit 16 --benchmarks "
    + ",".join(f"tiny/compose-{depth}" for depth in DEPTHS),
    points={"before": "tiny:compose", "midway": MIDDLE, "after": LAST},
    tasks=tuple(f"tiny/compose-{depth}" for depth in DEPTHS),
)
