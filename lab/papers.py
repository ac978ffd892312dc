"""What the papers claim: for each experiment the arms to compare and the inequalities to test.

An arm is a command line of one of the scripts. A claim names arms that a paper predicts to show
more of a metric than others. Nothing is tuned for an arm: what all arms share was fixed before any
two of them were compared.
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
    """A higher mean of the metric is predicted for the arms in `more` than for those in `less`.

    Two arms on each side that differ in two things make a difference of differences. Without
    `less`, the metric itself is predicted to be above zero.
    """

    metric: str
    more: tuple[str, ...]
    less: tuple[str, ...] = ()
    deck: str = ""  # the sentence of the deck (docs/papers.md) that it tries
    extends: bool = False  # our question, not a paper's
    apart: str = ""  # why it is not counted: what it could not fail to show

    def __str__(self) -> str:
        return f"{self.metric}: {' & '.join(self.more)} > {' & '.join(self.less) or '0'}"


@dataclass(frozen=True)
class Experiment:
    paper: str  # what the paper says, and how its figure shows it
    found: str  # what was found here, in one plain paragraph
    arms: dict[str, dict[str, str]]  # {facet: {label: script and flags}}; an arm is "facet: label"
    claims: tuple[Claim, ...]
    steps: int
    seconds: int  # of one run on one idle core, evaluations included
    try_it: str  # what a student can change, and see in five minutes
    panels: tuple[str, ...] = ()  # the metrics to draw
    common: str = COMMON  # flags of all arms, after the script
    schedule: str = "--steps {steps} --eval_every {eighth} --save_every {half}"
    tokens: int = 0  # sampled tokens a run, for `eval_accuracy at equal tokens`
    budget: int = 0  # sampled tokens that end a run, instead of its steps
    problems: tuple[str, int] = ("", 0)  # a source and how many of it, as {problems} in `common`
    evaluate: str = ""  # flags for evaluate.py
    points: dict[str, str] = field(default_factory=dict)  # what it measures: {name: model}
    tasks: tuple[str, ...] = ()  # benchmarks whose pass@k is drawn

    def commands(self) -> dict[str, str]:
        """{arm: script and flags}"""
        return {
            arm(facet, label): command
            for facet, labels in self.arms.items()
            for label, command in labels.items()
        }


def arm(facet: str, label: str) -> str:
    return f"{facet}: {label}" if facet else label


def cross(facets: dict[str, str], labels: dict[str, str]) -> dict[str, dict[str, str]]:
    return {
        facet: {label: f"{command} {flags}" for label, command in labels.items()}
        for facet, flags in facets.items()
    }


# --- pieces of command lines ---

# Eight updates a batch: with few, ratios stay near 1, no bound of the clip is met, and no arm of it
# can differ.
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
LAST, MIDDLE = "{run}/checkpoints/step_{steps:06d}", "{run}/checkpoints/step_{middle:06d}"


def depths(low: int, high: int) -> str:
    """Problems of these depths, with room for the longest working, of 8 tokens a line and a box."""
    room = 8 * high + 16
    return f"""--data tiny:train/compose-{low}-{high} --eval_data tiny:eval/compose-{low}-{high}
 --max_prompt_tokens 64 --max_response_tokens {room} --eval_max_tokens {room}"""


EXPERIMENTS = {}

# --- Tricks or Traps (arXiv 2508.08221) ---

SCALES = ("group/group", "group/batch", "group/none", "batch/batch", "batch/none")
EXPERIMENTS["normalization"] = Experiment(
    paper="Tricks or Traps, analysis 1. On easy data the rewards of a group become alike, and "
    "dividing by their std blows up the gradient, so that subtracting the mean alone is better. On "
    "hard data it makes no difference. (Text and figure 5 drop the std from the batch's "
    "normalisation, equation 7 from the group's: both pairs are here.) The group's mean with the "
    "batch's std is best. With rewards of 0 and 1, the batch's mean and std are worse than the "
    "group's.",
    found="Rewards within a group are more alike on easy data, as the paper says. There the "
    "gradient shrinks by 14 % over the run if advantages are divided by the group's std, and by "
    "26 % if they are not: the paper's direction, but nothing blows up. No choice changes accuracy "
    "by three points within 40 steps. AdamW divides each update by the gradient's own size, so "
    "that a factor common to all advantages is lost.",
    arms=cross(
        {"easy": EASY, "hard": HARD},
        {
            name: f"{LITEPPO} --center {name.split('/')[0]} --scale {name.split('/')[1]}"
            for name in SCALES
        },
    ),
    claims=(
        Claim(
            "reward_std",
            ("hard: group/group",),
            ("easy: group/group",),
            apart="a property of the data",
        ),
        Claim("grad_growth", ("easy: group/group",), ("easy: group/none",)),
        Claim(
            "eval_accuracy",
            ("easy: batch/none",),
            ("easy: batch/batch",),
            deck="Easy data: better without the std",
        ),
        Claim("eval_accuracy", ("easy: group/none",), ("easy: group/group",)),
        Claim(
            "eval_accuracy",
            ("easy: batch/none", "hard: batch/batch"),
            ("easy: batch/batch", "hard: batch/none"),
        ),
        Claim(
            "eval_accuracy",
            ("easy: group/none", "hard: group/group"),
            ("easy: group/group", "hard: group/none"),
        ),
        Claim(
            "eval_accuracy",
            ("easy: group/batch",),
            ("easy: group/group",),
            deck="Group mean with batch std is best, easy data",
        ),
        Claim(
            "eval_accuracy",
            ("hard: group/batch",),
            ("hard: group/group",),
            deck="Group mean with batch std is best, hard data",
        ),
        Claim(
            "eval_accuracy",
            ("easy: group/group", "hard: group/group"),
            ("easy: batch/batch", "hard: batch/batch"),
        ),
    ),
    panels=("eval_accuracy", "reward_std", "grad_norm", "entropy"),
    steps=40,
    seconds=40,
    try_it="`python liteppo.py --tiny --scale none --data tiny:train/easy`, and watch `grad_norm` "
    "fall.",
)

# --- the same, in the world of forks ---

FORKS, FORKS_ALIGNED = "--model tiny:forks", "--model tiny:forks-aligned"
# Settings at which one token in a hundred meets the bound in the 0.20 arm; it alone was looked at.
# An update takes four answers, and the steps end while accuracy still rises.
CLIPPED = f"""liteppo.py {depths(1, 4)} --prompts_per_step 64 --updates_per_step 128
 --learning_rate 5e-5 --warmup_steps 4 --eval_samples 4"""
PREMISE = "the paper's premise, that a base model hardly meets the bound, was removed"
EXPERIMENTS["clip_higher"] = Experiment(
    paper="Tricks or Traps, analysis 2. Base models meet the upper bound of the clip with 0.003 of "
    "their tokens, so that a higher one changes their entropy little and can hurt. With aligned "
    "ones it slows the loss of entropy and raises accuracy; the smaller aligned model (4B) gains "
    "up to 0.32, the larger one (8B) is best at 0.28.",
    found="Settings were chosen at which the bound is met: in the 0.20 arm by a mean of 0.005 of "
    "the base's tokens over the six steps and 0.010 at most, against the paper's 0.003, and by "
    "0.018 of the aligned model's at most. That removes the paper's premise about base models: "
    "that the base, too, gains four points at 0.28 is no counter-example. Two of the six steps "
    "train at the full learning rate. A higher bound lets the mark that makes a line right turn "
    "from rare to usual sooner, and after six steps the aligned arms are level. Entropy falls a "
    "little faster with a higher bound, by less than the smallest effect. The model is the larger "
    "of two sizes; the smaller one's arms are there to be run.",
    arms=cross(
        {"base": FORKS, "aligned": FORKS_ALIGNED},
        {bound: f"{CLIPPED} --clip_high {bound}" for bound in ("0.20", "0.28", "0.32")},
    )
    | cross(
        {"aligned, small": f"{FORKS_ALIGNED}-small"},
        {bound: f"{CLIPPED} --clip_high {bound}" for bound in ("0.28", "0.32")},
    ),
    claims=(
        Claim("entropy", ("aligned: 0.28",), ("aligned: 0.20",)),
        Claim(
            "eval_accuracy",
            ("aligned: 0.28",),
            ("aligned: 0.20",),
            deck="Clip-higher helps an aligned model",
        ),
        Claim("eval_accuracy", ("base: 0.20",), ("base: 0.28",), apart=PREMISE),
        Claim(
            "eval_accuracy",
            ("aligned: 0.28", "base: 0.20"),
            ("aligned: 0.20", "base: 0.28"),
            deck="CH(Base) < CH(Aligned)",
            apart=PREMISE,
        ),
        Claim(
            "entropy",
            ("aligned: 0.28", "base: 0.20"),
            ("aligned: 0.20", "base: 0.28"),
            apart=PREMISE,
        ),
        Claim(
            "eval_accuracy",
            ("aligned: 0.28",),
            ("aligned: 0.32",),
            deck="Larger model: accuracy at 0.32 < at 0.28",
        ),
        Claim(
            "eval_accuracy",
            ("aligned, small: 0.32",),
            ("aligned, small: 0.28",),
            deck="Small model: accuracy at 0.32 > at 0.28",
        ),
    ),
    panels=("eval_accuracy", "entropy", "clip_fraction_high"),
    steps=6,
    seconds=25,
    try_it="`python liteppo.py --tiny --model tiny:forks --data tiny:train/compose --eval_data "
    "tiny:eval/compose --max_response_tokens 112 --eval_max_tokens 112 --updates_per_step 16`, "
    "once more with `--clip_high 0.4`, and watch the marks in the answers.",
)

EXPERIMENTS["aggregation"] = Experiment(
    paper="Tricks or Traps, analysis 3. From a base model every token should weigh alike, most of "
    "all on hard data. From an aligned one every sequence should, in most settings. The paper "
    "compares the final accuracies as bars.",
    found="Answers are 8 tokens long where the model guesses, and up to 88 where it works. How "
    "tokens are weighed makes no difference on easy data, from either model. On hard data accuracy "
    "is unsteady late in training, and the seeds do not suffice. Earlier runs in the world of "
    "arithmetic found a mean over tokens better by three points on hard data; there, answers that "
    "never stop weigh more in that mean, and here there are none.",
    arms=cross(
        {
            "base, easy": f"{FORKS} {depths(1, 3)}",
            "base, hard": f"{FORKS} {depths(2, 10)}",
            "aligned, easy": f"{FORKS_ALIGNED} {depths(1, 3)}",
            "aligned, hard": f"{FORKS_ALIGNED} {depths(2, 10)}",
        },
        {how: f"{LITEPPO} --aggregation {how}" for how in ("token", "sequence")},
    ),
    claims=(
        Claim("eval_accuracy", ("base, easy: token",), ("base, easy: sequence",)),
        Claim(
            "eval_accuracy",
            ("base, hard: token",),
            ("base, hard: sequence",),
            deck="Base model: token-level loss",
        ),
        Claim(
            "eval_accuracy",
            ("base, hard: token", "base, easy: sequence"),
            ("base, hard: sequence", "base, easy: token"),
        ),
        Claim(
            "eval_accuracy",
            ("aligned, easy: sequence",),
            ("aligned, easy: token",),
            deck="Aligned model: sequence-level loss",
        ),
        Claim("eval_accuracy", ("aligned, hard: sequence",), ("aligned, hard: token",)),
    ),
    panels=("eval_accuracy", "length", "entropy"),
    steps=24,
    seconds=40,
    try_it="`python liteppo.py --tiny --aggregation sequence`, and compare `length` and "
    "`truncated`.",
)

LIMITS = {limit: f"--max_response_tokens {limit} --eval_max_tokens {limit}" for limit in (32, 96)}
FILTERS = {
    name: f"{LITEPPO} {HARD} --overlong_filter {name == 'filter'}" for name in ("filter", "none")
}
EXPERIMENTS["overlong_filter"] = Experiment(
    paper="Tricks or Traps, analysis 4. Masking truncated answers out of the loss helps at a short "
    "length limit (8k) and little at a long one (20k). At the short limit it makes answers "
    "shorter, at the long one longer than the vanilla policy's.",
    found="An honest answer on the hard level takes up to about 40 tokens and an endless one all "
    "it gets, so that a limit of 32 cuts both, and a limit of 96 only the endless. Accuracy "
    "changes by less than three points at either. At the long limit answers become longer, as the "
    "paper says, but by 8 % and so by less than the smallest effect.",
    arms=cross({f"limit {limit}": flags for limit, flags in LIMITS.items()}, FILTERS),
    claims=(
        Claim(
            "eval_accuracy",
            ("limit 32: filter",),
            ("limit 32: none",),
            deck="8k threshold: substantial benefits",
        ),
        Claim(
            "eval_accuracy",
            ("limit 32: filter", "limit 96: none"),
            ("limit 32: none", "limit 96: filter"),
            deck="20k threshold: diminished benefits",
        ),
        Claim(
            "length",
            ("limit 32: none",),
            ("limit 32: filter",),
            deck="8k threshold: shorter responses",
        ),
        Claim(
            "length",
            ("limit 96: filter",),
            ("limit 96: none",),
            deck="20k threshold: longer responses",
        ),
    ),
    panels=("eval_accuracy", "truncated", "length"),
    steps=40,
    seconds=40,
    try_it="`python liteppo.py --tiny --overlong_filter True --max_response_tokens 32`, and look "
    "at `truncated`.",
)
EXPERIMENTS["overlong_repeats"] = Experiment(
    paper="Tricks or Traps, section 4.4. With aligned models, fewer of the answers that are "
    "truncated at a long limit repeat themselves without end if the filter masks truncated answers "
    "out of the loss.",
    found="Of the aligned model's answers 5 % are cut at 96 tokens before training, and a third "
    "of those repeat a line without end.",
    arms=cross(
        {f"limit {limit}": f"--model tiny:aligned {f}" for limit, f in LIMITS.items()}, FILTERS
    ),
    claims=(
        Claim(
            "final_repeats hard",
            ("limit 96: none",),
            ("limit 96: filter",),
            deck="20k threshold: filters repeats without end",
        ),
        Claim(
            "final_repeats hard",
            ("limit 32: none",),
            ("limit 32: filter",),
            extends=True,
        ),
    ),
    panels=("eval_accuracy", "truncated", "length"),
    steps=40,
    seconds=80,
    try_it="`python evaluate.py tiny:aligned --benchmarks tiny/hard --n 8 --temperature 1 "
    "--top_p 1 --max_tokens 96`, and read the truncated ones.",
    evaluate="--benchmarks tiny/hard --n 8 --temperature 1.0 --top_p 1.0 --max_tokens 96",
    points={"after": LAST},
)

# Sampling by temperature alone, as dynamic sampling has it here; DAPO's rewards are 1 and -1.
APART = """-m lab.table1 --updates_per_step 8 --model tiny:base --max_response_tokens 64
 --eval_max_tokens 64 --weight_decay 0 --temperature 0.99 --eval_temperature 0.99
 --eval_top_p 0.99 --robust_verifier --dual_clip 1e9"""
LITE = f"{APART} --advantage lite --clip_high 0.2 --wrong_reward 0"
DAPO = f"{APART} --clip_high 0.28 --overlong_penalty"
RESAMPLE = "--dynamic_sampling resample"
# ProRL's script as DAPO: it has everything but the overlong shaping.
NO_SHAPING = """prorl.py --updates_per_step 8 --model tiny:base --kl_coefficient 0 --reset_every 0
 --reset_patience 0 --clip_high 0.28 --weight_decay 0 --temperature 0.99 --eval_temperature 0.99
 --eval_top_p 0.99 --max_response_tokens 64 --eval_max_tokens 64"""
EQUAL = "eval_accuracy at equal tokens"
EXPERIMENTS["lite_ppo"] = Experiment(
    paper="Tricks or Traps, section 5. From base models, Lite PPO (group mean, batch std, every "
    "token alike) ends above GRPO and DAPO (clip-higher, overlong shaping, token mean, dynamic "
    "sampling), on easy and on hard data. On easy data the others collapse after a peak.",
    found="Lite PPO and GRPO end level on easy data. The arms taken apart sample by temperature "
    "alone and differ in nothing else; there was time for two seeds of them on easy data, which "
    "decide little. Both point the same way. What lifts DAPO above Lite PPO at equal steps is its "
    "dynamic sampling: with it Lite PPO rises as much (by 4.6 and 1.4 points), and without it DAPO "
    "is Lite PPO's equal (0.3 and 0.5). It is bought with answers, twice as many tokens over 56 "
    "steps; at 90,000 tokens each, Lite PPO is ahead of DAPO (by 1.4 and 0.6 points). DAPO without "
    "overlong shaping, ProRL's script, also ends three points above Lite PPO, with 3.7 times its "
    "tokens a step late in training on easy data and 1.9 times on hard. The paper's collapse comes "
    "after hundreds of steps.",
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
    claims=(
        Claim(
            "eval_accuracy",
            ("easy: Lite PPO",),
            ("easy: GRPO",),
            deck="Lite PPO above GRPO, easy data",
        ),
        Claim(
            "eval_accuracy",
            ("hard: Lite PPO",),
            ("hard: GRPO",),
            deck="Lite PPO above GRPO, hard data",
        ),
        Claim(
            "eval_accuracy",
            ("easy, taken apart: Lite PPO",),
            ("easy, taken apart: DAPO",),
            deck="Lite PPO above DAPO, easy data",
        ),
        Claim(
            "eval_accuracy",
            ("hard, taken apart: Lite PPO",),
            ("hard, taken apart: DAPO",),
            deck="Lite PPO above DAPO, hard data",
        ),
        Claim(EQUAL, ("easy, taken apart: Lite PPO",), ("easy, taken apart: DAPO",), extends=True),
        Claim(
            "eval_accuracy",
            ("easy, taken apart: Lite PPO + DS",),
            ("easy, taken apart: Lite PPO",),
            extends=True,
        ),
        Claim(
            EQUAL,
            ("easy, taken apart: Lite PPO + DS",),
            ("easy, taken apart: Lite PPO",),
            extends=True,
        ),
        Claim(
            "eval_accuracy",
            ("easy, taken apart: Lite PPO",),
            ("easy, taken apart: DAPO - DS",),
            extends=True,
        ),
    ),
    panels=("eval_accuracy", "entropy", "length"),
    steps=56,
    seconds=47,
    tokens=90_000,
    try_it="`python prorl.py --tiny --kl_coefficient 0`, and compare `sampled_groups`.",
)

# --- JustRL (arXiv 2512.16649) ---

CEILING = "every arm reaches 0.99 there"
INERT = "few answers are so long that the penalty could act"
EXPERIMENTS["justrl_ablations"] = Experiment(
    paper="JustRL, section 4.4. The overlong penalty, and a robust verifier on top of it, each "
    "make the recipe worse (about 55, 50, 45 on AIME 2024) and halve its entropy. The paper did "
    "not try the verifier alone. Its curves come from single runs, part after 2,000 steps, and "
    "their entropies are probably biased low (docs/papers.md).",
    found="Accuracy can be compared only on the longer chains of `ood`, which are never trained "
    "on, and five seeds do not decide it. Entropy does the opposite of the paper: it stays higher "
    "with the robust verifier. The strict box rejects four in ten of the starting model's right "
    "answers for their form; learning the form costs entropy, which arms with the robust verifier "
    "keep. `final_accuracy` is by the robust verifier in all arms.",
    arms={
        "": {
            "recipe": JUSTRL,
            "penalty": f"{JUSTRL} --overlong_penalty True",
            "penalty + verifier": f"{JUSTRL} --overlong_penalty True --robust_verifier True",
            "verifier": f"{JUSTRL} --robust_verifier True",
        }
    },
    claims=(
        Claim(
            "final_accuracy ood",
            ("recipe",),
            ("penalty",),
            deck="With the overlong penalty: worse",
            apart=INERT,
        ),
        Claim("entropy", ("recipe",), ("penalty",), apart=INERT),
        Claim(
            "final_accuracy ood",
            ("penalty",),
            ("penalty + verifier",),
            deck="With the robust verifier on top: worse still",
        ),
        Claim("entropy", ("recipe",), ("penalty + verifier",)),
        Claim("final_accuracy ood", ("recipe",), ("verifier",), extends=True),
        *(
            Claim("final_accuracy tiny", ("recipe",), (other,), apart=CEILING)
            for other in ("penalty", "penalty + verifier", "verifier")
        ),
    ),
    panels=("eval_accuracy", "entropy", "length", "truncated"),
    steps=56,
    seconds=55,
    try_it="`python justrl.py --tiny --robust_verifier True`, and read the "
    "answers: `python -m tools.view runs/justrl-tiny-seed0`.",
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
EXPERIMENTS["complexity"] = Experiment(
    paper="JustRL asks whether the complexity of the systems before it is necessary, and answers "
    "with its scores: at or above theirs, with clip-higher alone (Tables 3 and 5).",
    found="JustRL against JustRL with a technique more or less, and against the other systems, "
    "on 64 problems and at equal sampled tokens; [docs/table1.md](../docs/table1.md) has the rows "
    "and what this cannot tell. Five systems were run again with their published values and have "
    "few seeds. All claims are in the figure, where left is better than JustRL.",
    arms={"": TECHNIQUES},
    claims=tuple(
        Claim(
            "eval_accuracy",
            ("JustRL",),
            (name,),
            extends=name not in systems.ROWS,
            apart=SAME if name == "JustRL without clip-higher" else "",
        )
        for name in TECHNIQUES
        if name != "JustRL"
    ),
    steps=11,
    seconds=8,
    common="--tiny --engine transformers --data {problems} --warmup_steps 2 --eval_samples 2",
    schedule="--steps {steps} --token_budget {budget} --eval_every 1000000 --save_every 0",
    budget=24_000,
    problems=("tiny:train/mixed", 64),
    try_it="`python -m lab.table1 --tiny --row polaris`, and compare `sampled_groups`.",
)

# --- ProRL (arXiv 2505.24864) ---

RESET, NO_KL = "--reset_every 24", "--kl_coefficient 0 --reset_every 0"
COPIED = "the reference has just been copied from the policy"
EXPERIMENTS["prorl_reset"] = Experiment(
    paper="ProRL, section 2.3.1. A KL penalty keeps entropy up and the policy stable, but its "
    "share of the loss grows until nothing more is learnt. A hard reset of reference and optimizer "
    "lets training go on. The paper has no ablation of it: its figure is one long run with its "
    "resets marked.",
    found="With a penalty that is felt (coefficient 1, one hundredth of the loss), the paper's "
    "account can be seen whole: the penalty holds entropy up and costs six points of accuracy, and "
    "resets win all of them back. With the report's coefficient of 1e-4 a tiny model moves so "
    "little that the penalty is a hundred-thousandth of its loss, and neither accuracy nor entropy "
    "differs. Whether a reset also clears the optimizer makes no difference. Coefficient 1 was "
    "picked for its share of the loss before any two arms were compared.",
    arms={
        "": {
            name: f"{PRORL} {MIXED} {flags}"
            for name, flags in {
                "no KL": NO_KL,
                "KL 1e-4": "--kl_coefficient 1e-4 --reset_every 0",
                "KL 1": "--kl_coefficient 1 --reset_every 0",
                "KL 1e-4, resets": f"--kl_coefficient 1e-4 {RESET}",
                "KL 1, resets": f"--kl_coefficient 1 {RESET}",
                "KL 1, resets, optimizer kept": f"--kl_coefficient 1 {RESET} "
                "--reset_optimizer False",
            }.items()
        }
    },
    claims=(
        Claim("entropy", ("KL 1e-4",), ("no KL",), deck="KL sustains entropy, coefficient 1e-4"),
        Claim("entropy", ("KL 1",), ("no KL",), deck="KL sustains entropy, coefficient 1"),
        Claim("kl_loss_share", ("KL 1e-4",), ("KL 1e-4, resets",), apart=COPIED),
        Claim("kl_loss_share", ("KL 1",), ("KL 1, resets",), apart=COPIED),
        Claim(
            "eval_accuracy",
            ("KL 1e-4, resets",),
            ("KL 1e-4",),
            deck="Resets: continue to improve, coefficient 1e-4",
        ),
        Claim(
            "eval_accuracy",
            ("KL 1, resets",),
            ("KL 1",),
            deck="Resets: continue to improve, coefficient 1",
        ),
        Claim("eval_accuracy", ("KL 1e-4, resets",), ("no KL",), extends=True),
        Claim("eval_accuracy", ("KL 1, resets",), ("no KL",), extends=True),
        Claim("eval_accuracy", ("KL 1, resets",), ("KL 1, resets, optimizer kept",), extends=True),
    ),
    panels=("eval_accuracy", "kl_loss_share", "kl", "entropy"),
    steps=72,
    seconds=62,
    try_it="`python prorl.py --tiny --kl_coefficient 1 --reset_every 10`, and watch `kl` fall at "
    "each reset.",
)

# --- the world of compositions ---

COMPOSE = "--data tiny:train/compose --eval_data tiny:eval/compose"
DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14)
TRAINED = "RL raises accuracy in the world that it trains in"
EXPERIMENTS["prorl_boundary"] = Experiment(
    paper="ProRL, section 4. Prolonged training extends what the model can solve at all. The "
    "weaker the start, the stronger the gain in pass@128 (figure 3). Tasks fall into three regimes "
    "by pass@k of the base, of a checkpoint midway and of the last one: diminish (pass@1 rises, "
    "pass@128 does not), plateau (the gain comes early) and sustained (it goes on). Outside of "
    "training, boxnet goes from unsolved at any k to solved, and graph_color improves at sizes "
    "larger than those trained on. The distributions of pass@1 shift to the right.",
    found="The base solves no chain of 12 within 128 answers, and of the chains of 10 one in "
    "sixteen. After 40 steps of ProRL on depths 1 to 8, 91 % of the chains of 10 and 58 % of those "
    "of 12 are solved within 128, though training never shows such depths. Depth 1 was solved "
    "within 128 before, and only pass@1 rises (diminish). From depth 3 on the gain has mostly come "
    "midway (plateau); at depths 10 to 14 it goes on (sustained) with one or two seeds of five. RL "
    "makes steps reliable that a model can already do, and so joins more of them; it adds none. "
    "All is measured at temperature 1, with 128 answers to each of sixteen problems a depth. In "
    "arithmetic the question has no answer: 128 guesses solve nearly everything.",
    # Sixteen samples, as in the paper. Of eight, answers that are right once in a hundred are
    # hardly ever mixed with wrong ones, and dynamic sampling has little to train on.
    arms={
        "": {
            "ProRL": f"{PRORL} {RESET} --samples_per_prompt 16 --model tiny:compose {COMPOSE}",
        }
    },
    claims=(
        *(Claim(f"rise@1 compose-{depth}", ("ProRL",), apart=TRAINED) for depth in (1, 8)),
        Claim("rise@128 compose-1", ("ProRL",), apart="all problems were solved within 128 before"),
        Claim(
            "rise@128 compose-8",
            ("ProRL",),
            deck="RL unlocks new capabilities: trained depth 8",
        ),
        Claim("rise@128 compose-10", ("ProRL",), deck="Insight 3: out of distribution, depth 10"),
        Claim("rise@128 compose-12", ("ProRL",), deck="Insight 3: out of distribution, depth 12"),
        Claim("rise@128 compose-14", ("ProRL",)),
        *(Claim(f"rise@1 compose-{depth}", ("ProRL",)) for depth in (10, 12, 14)),
        Claim(
            "shift@1 compose-10",
            ("ProRL",),
            deck="Insight 4: pass@1 shifts to the right, depth 10",
        ),
        Claim(
            "shift@1 compose-12",
            ("ProRL",),
            deck="Insight 4: pass@1 shifts to the right, depth 12",
        ),
        Claim(
            "weak_start_strong_gain",
            ("ProRL",),
            deck="Insight 1: the weaker the start, the stronger the gain",
            apart="where all is solved after, the gain is 1 minus the start; three depths are left",
        ),
    ),
    steps=40,
    seconds=300,
    try_it="`python prorl.py --tiny`, and watch the accuracy on chains of ten, which "
    "training never shows.",
    evaluate="--temperature 1.0 --top_p 1.0 --max_tokens 128 --n 128 --limit 16 --benchmarks "
    + ",".join(f"tiny/compose-{depth}" for depth in DEPTHS),
    points={"before": "tiny:compose", "midway": MIDDLE, "after": LAST},
    tasks=tuple(f"tiny/compose-{depth}" for depth in DEPTHS),
)
