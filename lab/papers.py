"""What the papers claim: for each experiment the arms to compare and the inequalities to test.

An arm is a command line of one of the scripts. A claim names arms that a paper predicts to show
more of a metric than others. Nothing is tuned for an arm: what all arms share was fixed before any
two of them were compared.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Claim:
    """The paper predicts a higher mean of the metric for the arms in `more` than for those in
    `less`.

    Two arms on each side that differ in two things make a difference of differences. Without
    `less`, it predicts that the metric itself is above zero.
    """

    metric: str
    more: tuple[str, ...]
    less: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.metric}: {' & '.join(self.more)} > {' & '.join(self.less) or '0'}"


@dataclass(frozen=True)
class Experiment:
    paper: str  # what the paper says, and how its figure shows it
    found: str  # what was found here, in one plain paragraph
    arms: dict[str, dict[str, str]]  # {facet: {label: script and flags}}; an arm is "facet: label"
    claims: tuple[Claim, ...]
    panels: tuple[str, ...]  # the metrics to draw
    steps: int
    seconds: int  # of one run on one idle core, evaluations included
    try_it: str  # what a student can change, and see in five minutes
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


# --- what all arms share ---

COMMON = """--tiny --engine transformers --prompts_per_step 16 --samples_per_prompt 8
 --learning_rate 1e-4 --warmup_steps 10 --eval_samples 2 --keep_checkpoints 3"""
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
BASE, ALIGNED = "--model tiny:base", "--model tiny:aligned"

LAST, MIDDLE = "{run}/checkpoints/step_{steps:06d}", "{run}/checkpoints/step_{middle:06d}"
LEVELS = ("easy", "medium", "hard", "ood")

EXPERIMENTS = {}

# --- Tricks or Traps (arXiv 2508.08221) ---

SCALES = ("group/group", "group/batch", "group/none", "batch/batch")
EXPERIMENTS["normalization"] = Experiment(
    paper="Tricks or Traps, analysis 1. On easy data the rewards of a group become alike, and "
    "dividing by their std blows up the gradient, so that subtracting the mean alone is better. On "
    "hard data it makes no difference. The group's mean with the batch's std is best. With rewards "
    "of 0 and 1, the batch's mean and std are worse than the group's. The paper shows accuracy "
    "over some hundreds of steps, one panel a model and data set.",
    found="Rewards within a group are more alike on easy data, as the paper says. There the "
    "gradient shrinks by 14 % over the run if advantages are divided by the group's std, "
    "and by 26 % if they are not: the paper's direction, but nothing blows up. No choice "
    "changes accuracy by three points within 40 steps, on easy data or on hard. AdamW "
    "divides each update by the gradient's own size, so that a factor common to all "
    "advantages is lost. The scales can only weigh groups, and steps, against each other.",
    arms=cross(
        {"easy": EASY, "hard": HARD},
        {
            name: f"{LITEPPO} --center {name.split('/')[0]} --scale {name.split('/')[1]}"
            for name in SCALES
        },
    ),
    claims=(
        Claim("reward_std", ("hard: group/group",), ("easy: group/group",)),
        Claim("grad_growth", ("easy: group/group",), ("easy: group/none",)),
        Claim("eval_accuracy", ("easy: group/none",), ("easy: group/group",)),
        Claim(
            "eval_accuracy",
            ("easy: group/none", "hard: group/group"),
            ("easy: group/group", "hard: group/none"),
        ),
        Claim("eval_accuracy", ("easy: group/batch",), ("easy: group/group",)),
        Claim("eval_accuracy", ("hard: group/batch",), ("hard: group/group",)),
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


def depths(low: int, high: int) -> str:
    """Problems of these depths, with room for the longest working, of 8 tokens a line and a box."""
    room = 8 * high + 16
    return f"""--data tiny:train/compose-{low}-{high} --eval_data tiny:eval/compose-{low}-{high}
 --max_prompt_tokens 64 --max_response_tokens {room} --eval_max_tokens {room}"""


# Settings at which one token in a hundred meets the bound in the 0.20 arm; it alone was looked at.
# An update takes four answers, and the steps end while accuracy still rises.
CLIPPED = f"""liteppo.py {depths(1, 4)} --prompts_per_step 64 --updates_per_step 128
 --learning_rate 5e-5 --warmup_steps 4 --eval_samples 4"""
EXPERIMENTS["clip_higher"] = Experiment(
    paper="Tricks or Traps, analysis 2. For base models, a higher upper bound of the clip changes "
    "entropy little and can hurt. For aligned ones it slows the loss of entropy and raises "
    "accuracy; the smaller aligned model gains up to 0.32, the larger one is best at 0.28. The "
    "paper draws accuracy and entropy over steps, one line a bound.",
    found="In this world the bound is met: in the 0.20 arms by 1.0 % of the tokens from the "
    "base and by 1.8 % from the aligned model, at the steps where the mark that makes a "
    "line right turns from rare to usual. (In arithmetic it is met by 0.2 %, so no arms "
    "are compared there.) A higher bound makes that turn faster, from either model: after "
    "five steps the base has an accuracy of 0.83 at 0.28, and of 0.73 at 0.20. After six "
    "the aligned arms are level, and from the base 0.28 is still four points ahead, the "
    "other way round than the paper says. Entropy falls a little faster with a higher "
    "bound, not more slowly: what is learnt here is one right way, and the bound lets it "
    "win sooner.",
    arms=cross(
        {"base": FORKS, "aligned": FORKS_ALIGNED},
        {bound: f"{CLIPPED} --clip_high {bound}" for bound in ("0.20", "0.28", "0.32")},
    ),
    claims=(
        Claim("entropy", ("aligned: 0.28",), ("aligned: 0.20",)),
        Claim("eval_accuracy", ("aligned: 0.28",), ("aligned: 0.20",)),
        Claim("eval_accuracy", ("base: 0.20",), ("base: 0.28",)),
        Claim("entropy", ("aligned: 0.28", "base: 0.20"), ("aligned: 0.20", "base: 0.28")),
        Claim("eval_accuracy", ("aligned: 0.28",), ("aligned: 0.32",)),
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
    found="Answers are 8 tokens long where the model guesses, and up to 88 where it works: as "
    "training goes on, they grow from 34 tokens to 56 on hard data from the base, because "
    "only workings are right. How tokens are weighed makes no difference all the same, "
    "from either model, on easy data or on hard. On hard data that took 31 seeds, because "
    "accuracy is unsteady late in training. It was to take more by the variance, but the "
    "time was up. Earlier runs of this experiment in the world of arithmetic found that "
    "on hard data a mean over tokens is better by three points; there, answers that never "
    "stop weigh more in that mean, and here there are none.",
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
        Claim("eval_accuracy", ("base, hard: token",), ("base, hard: sequence",)),
        Claim(
            "eval_accuracy",
            ("base, hard: token", "base, easy: sequence"),
            ("base, hard: sequence", "base, easy: token"),
        ),
        Claim("eval_accuracy", ("aligned, easy: sequence",), ("aligned, easy: token",)),
        Claim("eval_accuracy", ("aligned, hard: sequence",), ("aligned, hard: token",)),
    ),
    panels=("eval_accuracy", "length", "entropy"),
    steps=24,
    seconds=40,
    try_it="`python liteppo.py --tiny --aggregation sequence`, and compare `length` and "
    "`truncated`.",
)

EXPERIMENTS["overlong_filter"] = Experiment(
    paper="Tricks or Traps, analysis 4. Masking truncated answers out of the loss helps at a short "
    "length limit and little at a long one. At the short limit it makes answers shorter, at the "
    "long one longer. Truncated answers at the long limit mostly repeat themselves without end, "
    "and the filter makes those fewer.",
    found="At the long limit the filter makes answers longer, as the paper says. It makes endless "
    "answers more frequent, not rarer: a masked endless answer is not punished for being wrong, "
    "and nothing else here teaches the model to stop. Accuracy changes by less than three points. "
    "An honest answer on the hard level takes up to about 40 tokens and an endless one all it "
    "gets, so that a limit of 32 cuts both, and a limit of 96 only the endless. `final_endless` is "
    "the share of answers that have not ended after 192 tokens.",
    arms=cross(
        {
            f"limit {limit}": f"--max_response_tokens {limit} --eval_max_tokens {limit}"
            for limit in (32, 96)
        },
        {
            name: f"{LITEPPO} {HARD} --overlong_filter {name == 'filter'}"
            for name in ("filter", "none")
        },
    ),
    claims=(
        Claim("eval_accuracy", ("limit 32: filter",), ("limit 32: none",)),
        Claim(
            "eval_accuracy",
            ("limit 32: filter", "limit 96: none"),
            ("limit 32: none", "limit 96: filter"),
        ),
        Claim("length", ("limit 32: none",), ("limit 32: filter",)),
        Claim("length", ("limit 96: filter",), ("limit 96: none",)),
        Claim(
            "final_endless hard",
            ("limit 32: none", "limit 96: none"),
            ("limit 32: filter", "limit 96: filter"),
        ),
    ),
    panels=("eval_accuracy", "truncated", "length"),
    steps=40,
    seconds=49,
    try_it="`python liteppo.py --tiny --overlong_filter True --max_response_tokens 32`, and look "
    "at `truncated`.",
    evaluate="--benchmarks tiny/hard --n 4 --temperature 1.0 --top_p 1.0 --max_tokens 192",
    points={"after": LAST},
)

DAPO = f"""prorl.py --updates_per_step 8 {BASE} --kl_coefficient 0 --reset_every 0 --reset_patience
0
 --clip_high 0.28 --weight_decay 0 --temperature 0.99 --eval_temperature 0.99 --eval_top_p 0.99
 --max_response_tokens 64 --eval_max_tokens 64"""
EXPERIMENTS["lite_ppo"] = Experiment(
    paper="Tricks or Traps, section 5. From base models, Lite PPO (group mean, batch std, every "
    "token alike) ends above GRPO and DAPO, on easy and on hard data. On easy data the others "
    "collapse after a peak.",
    found="DAPO ends three points above Lite PPO, on easy and on hard data: the opposite of the "
    "paper. Lite PPO and GRPO end level on easy data. On hard data Lite PPO is ahead by a "
    "point and a half, with an interval from next to nothing to just over three; the rule "
    "leaves that undecided, though the seeds that it asks for are there. DAPO is the "
    "ProRL script without KL penalty and resets, so with dynamic sampling, clip-higher "
    "and the token mean. It samples until every group is mixed, late in training 59 "
    "groups for 16 on easy data and 31 on hard. Arms are compared at equal steps, as in "
    "the paper, so that DAPO's lead is bought with more answers. The paper's collapse "
    "comes after hundreds of steps.",
    arms=cross(
        {"easy": EASY, "hard": HARD},
        {
            "Lite PPO": LITEPPO,
            "GRPO": f"{LITEPPO} --scale group --aggregation sequence",
            "DAPO": DAPO,
        },
    ),
    claims=(
        Claim("eval_accuracy", ("easy: Lite PPO",), ("easy: GRPO",)),
        Claim("eval_accuracy", ("easy: Lite PPO",), ("easy: DAPO",)),
        Claim("eval_accuracy", ("hard: Lite PPO",), ("hard: GRPO",)),
        Claim("eval_accuracy", ("hard: Lite PPO",), ("hard: DAPO",)),
    ),
    panels=("eval_accuracy", "entropy", "length"),
    steps=56,
    seconds=47,
    try_it="`python prorl.py --tiny --kl_coefficient 0`, and compare `sampled_groups`.",
)

# --- JustRL (arXiv 2512.16649) ---

EXPERIMENTS["justrl_ablations"] = Experiment(
    paper="JustRL, section 4.4. The overlong penalty, and a robust verifier on top of it, each "
    "make the recipe worse (about 55, 50, 45 on AIME 2024) and halve its entropy. The paper did "
    "not try the verifier alone; the claims about it extend the paper's. Its curves come from "
    "single runs and part after 2,000 steps.",
    found="On the levels trained on, all arms reach 0.99, so that nothing can be compared there. "
    "On the longer chains of `ood`, which were added before anybody looked at a result on them, "
    "the robust verifier costs about six points. Entropy does the opposite of the paper: it stays "
    "a little higher with the penalty and much higher with the robust verifier. The strict box "
    "rejects four in ten of the starting model's right answers for their form; learning the form "
    "costs entropy, which arms with the robust verifier keep. The penalty begins at 40 tokens, and "
    "few answers are that long. `final_accuracy` is by the robust verifier in all arms.",
    arms={
        "": {
            "recipe": JUSTRL,
            "penalty": f"{JUSTRL} --overlong_penalty True",
            "penalty + verifier": f"{JUSTRL} --overlong_penalty True --robust_verifier True",
            "verifier": f"{JUSTRL} --robust_verifier True",
        }
    },
    claims=(
        Claim("final_accuracy tiny", ("recipe",), ("penalty",)),
        Claim("final_accuracy ood", ("recipe",), ("penalty",)),
        Claim("entropy", ("recipe",), ("penalty",)),
        Claim("final_accuracy tiny", ("penalty",), ("penalty + verifier",)),
        Claim("final_accuracy ood", ("penalty",), ("penalty + verifier",)),
        Claim("entropy", ("recipe",), ("penalty + verifier",)),
        Claim("final_accuracy tiny", ("recipe",), ("verifier",)),
        Claim("final_accuracy ood", ("recipe",), ("verifier",)),
    ),
    panels=("eval_accuracy", "entropy", "length", "truncated"),
    steps=56,
    seconds=55,
    try_it="`python justrl.py --tiny --robust_verifier True`, and read the "
    "answers: `python -m tools.view runs/justrl-tiny-seed0`.",
    evaluate="--benchmarks tiny,tiny/ood --n 8 --max_tokens 96",
    points={"after": LAST},
)

# --- ProRL (arXiv 2505.24864) ---

RESET, NO_KL = "--reset_every 24", "--kl_coefficient 0 --reset_every 0"
EXPERIMENTS["prorl_reset"] = Experiment(
    paper="ProRL, section 2.3.1. A KL penalty keeps entropy up and the policy stable, but its "
    "share of the loss grows until nothing more is learnt. A hard reset of reference and optimizer "
    "lets training go on. The paper has no ablation of it: its figure is one long run with its "
    "resets marked.",
    found="With a penalty that is felt (coefficient 1, one hundredth of the loss), the paper's "
    "account can be seen whole: the penalty holds entropy up and costs six points of "
    "accuracy, and resets win all of them back. With the report's coefficient of 1e-4 a "
    "tiny model moves so little that the penalty is a hundred-thousandth of its loss, and "
    "neither accuracy nor entropy differs. Whether a reset also clears the optimizer "
    "makes no difference. Coefficient 1 was picked for its share of the loss before any "
    "two arms were compared.",
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
        Claim("kl_loss_share", ("KL 1e-4",), ("KL 1e-4, resets",)),
        Claim("eval_accuracy", ("KL 1e-4, resets",), ("KL 1e-4",)),
        Claim("entropy", ("KL 1e-4",), ("no KL",)),
        Claim("eval_accuracy", ("KL 1e-4, resets",), ("no KL",)),
        Claim("kl_loss_share", ("KL 1",), ("KL 1, resets",)),
        Claim("eval_accuracy", ("KL 1, resets",), ("KL 1",)),
        Claim("entropy", ("KL 1",), ("no KL",)),
        Claim("eval_accuracy", ("KL 1, resets",), ("no KL",)),
        Claim("eval_accuracy", ("KL 1, resets",), ("KL 1, resets, optimizer kept",)),
    ),
    panels=("eval_accuracy", "kl_loss_share", "kl", "entropy"),
    steps=72,
    seconds=62,
    try_it="`python prorl.py --tiny --kl_coefficient 1 --reset_every 10`, and watch `kl` fall at "
    "each reset.",
)

EXPERIMENTS["prorl_boundary_arithmetic"] = Experiment(
    paper="ProRL, section 4. Prolonged training extends what the model can solve at all. pass@128 "
    "rises most where the base is weakest, little where it is strong, and also on problems unlike "
    "those of training.",
    found="Arithmetic cannot answer the question. Answers are integers from 0 to 20, so 128 "
    "guesses solve the levels trained on before training begins, and pass@1 is all that can rise. "
    "On longer chains (`ood`) pass@1 rises by nine points while pass@128 falls by sixty: the "
    "base's answers differ so much that one of 128 is mostly right, and training makes the answers "
    "to a problem alike. `prorl_boundary` asks the question in a world without luck.",
    arms={"": {"ProRL": f"{PRORL} {RESET} {MIXED}"}},
    claims=(
        *(Claim(f"rise@1 {level}", ("ProRL",)) for level in LEVELS),
        Claim("rise@128 hard", ("ProRL",)),
        Claim("rise@128 ood", ("ProRL",)),
    ),
    panels=(),
    steps=64,
    seconds=157,
    try_it="`python evaluate.py tiny:aligned --benchmarks tiny/ood --n 128 --max_tokens 64`, a "
    "model that only guesses well.",
    evaluate="--protocol prorl --max_tokens 64 --n 128 --limit 40 --benchmarks "
    "" + ",".join(f"tiny/{level}" for level in LEVELS),
    points={"before": "tiny:aligned", "midway": MIDDLE, "after": LAST},
    tasks=tuple(f"tiny/{level}" for level in LEVELS),
)

# --- the world of compositions ---

COMPOSE = "--data tiny:train/compose --eval_data tiny:eval/compose"
DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14)
EXPERIMENTS["prorl_boundary"] = Experiment(
    paper="ProRL, section 4. Prolonged training extends what the model can solve at all. The paper "
    "plots the gain in pass@128 of each task against the base's pass@128: the weaker the start, "
    "the stronger the gain. It sorts tasks into three regimes by pass@k of the base, of a "
    "checkpoint midway and of the last one: diminish (pass@1 rises, pass@128 does not), plateau "
    "(the gain comes early) and sustained (it goes on). Outside of training, boxnet goes from "
    "unsolved at any k to solved, and graph_color improves at sizes larger than those trained on. "
    "The distributions of pass@1 shift to the right.",
    found="The base solves no chain of 12 within 128 answers, and of the chains of 10 one in "
    "sixteen. After 40 steps of ProRL on depths 1 to 8, 91 % of the chains of 10 and 58 % "
    "of those of 12 are solved within 128, though training never shows such depths. Depths "
    "1 and 2 were mostly solved within 128 before, and only pass@1 can rise (diminish). "
    "From depth 3 on the gain in pass@128 has mostly come midway (plateau). It goes on in "
    "the second half (sustained) at depths 10, 12 and 14 with one or two seeds of five. "
    "Over the ten depths, the weaker the start, the stronger the gain, but for depth 14, "
    "which stays nearly out of reach: the base loses its place in chains of that length. RL "
    "makes steps reliable that a model can already do, and so joins more of them; it adds "
    "none. All is measured at temperature 1 without nucleus, with 128 answers to each of "
    "sixteen problems a depth, because at the paper's 0.6 and 0.95 the base hardly ever "
    "works. The claims name depth 1, where the base is strongest; in an earlier run of "
    "three seeds and eight problems a depth they named depth 2.",
    # Sixteen samples, as in the paper. Of eight, answers that are right once in a hundred are
    # hardly ever mixed with wrong ones, and dynamic sampling has little to train on.
    arms={
        "": {
            "ProRL": f"{PRORL} {RESET} --samples_per_prompt 16 --model tiny:compose {COMPOSE}",
        }
    },
    claims=(
        *(Claim(f"rise@1 compose-{depth}", ("ProRL",)) for depth in (1, 8, 10, 12, 14)),
        *(Claim(f"rise@128 compose-{depth}", ("ProRL",)) for depth in (1, 8, 10, 12, 14)),
        Claim("weak_start_strong_gain", ("ProRL",)),
    ),
    panels=(),
    steps=40,
    seconds=300,
    try_it="`python prorl.py --tiny`, and watch the accuracy on chains of ten, which "
    "training never shows.",
    evaluate="--temperature 1.0 --top_p 1.0 --max_tokens 128 --n 128 --limit 16 --benchmarks "
    + ",".join(f"tiny/compose-{depth}" for depth in DEPTHS),
    points={"before": "tiny:compose", "midway": MIDDLE, "after": LAST},
    tasks=tuple(f"tiny/compose-{depth}" for depth in DEPTHS),
)
