"""JustRL's Table 1, runnable: justrl.py's loop with all that JustRL leaves out, as flags.

    python -m lab.table1 --tiny                             JustRL itself, digit by digit
    python -m lab.table1 --tiny --entropy_target 0.5        one technique added
    python -m lab.table1 --tiny --row polaris               a whole system, in the embedded world
    python -m lab.table1 --small --row polaris              with a real model, on one 24 GB GPU
    python -m lab.table1 --row polaris                      at its published scale
    python -m lab.table1 --tiny --stages '[{"until": 30, "max_response_tokens": 32}, {}]'

The systems are in lab/systems.py, the techniques in lab/techniques.py, the table is docs/table1.md.
With every flag off this is justrl.py. `diff justrl.py lab/table1.py` is what JustRL leaves out.

A stage is a set of flags "until step N": --stages takes a JSON list of them. So --temperature,
--samples_per_prompt, --max_response_tokens, --kl_coefficient and most others can change during a
run. A stage without "until" is the last, and lasts to the end.

Where this deviates, and why:
- All rows are judged by JustRL's verifier, so that they differ in their techniques alone;
  --robust_verifier accepts more.
- POLARIS looks for its first temperature by hand. Here a run begins with --temperature, and only
  later stages search.
- A group counts as mixed if its rewards differ, even if its verdicts agree. So with a length reward
  almost every group is mixed.

Shape suffixes: _P prompts, _G samples of a group, _B rows of a batch, _R response positions, _T
sequence positions, _M response tokens end to end.
"""

import argparse
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from statistics import fmean
from typing import Literal

import torch

import justrl
import losses
from lab import systems, techniques
from prorl import hard_reset
from tools.plot import plot_run
from trainer.data import Order, Problem, Rollout, Sampling, Template, encode_prompts, without
from trainer.policy.loading import load_policy, load_reference
from trainer.policy.policy import (
    equal_slices,
    loss_weights,
    make_optimizer,
    on_device,
    optimizer_step,
    response_mask,
    set_learning_rate,
)
from trainer.policy.pretrained import load_tokenizer
from trainer.ranks import gather, my_share, start_ranks
from trainer.run.flags import SHARE, at_least, parse, truth
from trainer.run.inert import requires
from trainer.run.launch import launch, model_folder
from trainer.run.metrics import kl_metrics, step_metrics
from trainer.run.own_reward import own_reward
from trainer.run.run import Run
from trainer.sampler.engine import make_engine, request_seed, self_check
from trainer.sources.load import load_problems


# (0) JustRL's hyperparameters, and the techniques, off.
@dataclass
class Config(justrl.Config):
    row: Literal["", *systems.ROWS] = ""  # a system of Table 1 (lab/systems.py)
    stages: str = ""  # ST, THP: a JSON list of sets of flags, each with "until": step
    prompts_from: float = 0.0  # ST: leave out this share of the problems, those of shortest prompts
    prompts_to: float = 1.0  # ST: leave out the problems beyond this share, by prompt (FastCuRL)
    hint_share: float = 0.0  # ST: share of the reference solution's characters given (QuestA)
    hint_prefill: bool = False  # ST: the hint begins the answer instead of ending the prompt
    hint_shortest: int = 10  # ST: characters; a shorter hint is left out (QuestA)

    entropy_coef: float = 0.0  # EC: weight of the entropy bonus; under a target, where it starts
    entropy_target: float = 0.0  # EC: nats a token; the bonus keeps the entropy there; 0: no target
    entropy_step: float = 1e-4  # EC: change of the adaptive weight a step

    kl_coefficient: float = 0.0  # RKL: weight of the KL penalty in the loss
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"  # RKL: see losses.kl_penalty
    reset_every: int = 0  # RKL: steps between resets of the reference; 0: never
    reset_patience: int = 0  # RKL: evaluations without a new best that bring a reset; 0: never
    reset_optimizer: bool = False  # RKL: a reset also clears the optimizer (ProRL v1)

    wrong_reward: float = -1.0  # the reward of a wrong answer; 0 in most other systems
    truncated_scale: float = 1.0  # LC: factor of a truncated response's reward (ProRL v2: 0)
    cosine_weight: float = 0.0  # LC: weight of the cosine length reward (ProRL v2)
    cosine_min: float = 0.0  # LC: value of the cosine reward at the length limit
    cosine_max: float = 1.0  # LC: value of the cosine reward at length 0
    cosine_on: int = 0  # LC: steps of a cycle with the cosine reward; 0, and off 0: always
    cosine_off: int = 0  # LC: steps of a cycle without the cosine reward

    adaptive_temperature: bool = False  # AT: each stage begins as diverse as the last one (POLARIS)
    rollout_rescue: bool = False  # RR: an earlier right answer joins a group that failed (POLARIS)
    # DS: resample groups of equal rewards (DAPO), or replace them by mixed ones (POLARIS)
    dynamic_sampling: Literal["off", "resample", "substitute"] = "off"
    max_rounds: int = 10  # DS: batches sampled for one step at most
    drop_above: float = 1.0  # DS: the next stage drops problems right more often (POLARIS: 0.9)

    # (6): "lite" is Lite PPO's, "tokens" has no baseline but the batch's
    advantage: Literal[*techniques.ADVANTAGES] = "grpo"
    pass_k: int = 4  # the k of --advantage pass@k (arXiv 2508.10751)
    loss: Literal["clip", "reinforce"] = "clip"  # (9): "reinforce" has no ratio and no clip
    icepop_low: float = 0.0  # (9): importance weights below it become 0 (ProRL v2: 0.5); 0: off
    icepop_high: float = 5.0  # (9): importance weights above it become 0
    # end by sampled tokens instead of by --steps, over which a --row then only spreads its stages
    token_budget: int = 0

    ranges = justrl.Config.ranges | {
        **dict.fromkeys(("entropy_coef", "entropy_target", "entropy_step"), at_least(0)),
        **dict.fromkeys(("cosine_weight", "cosine_on", "cosine_off", "token_budget"), at_least(0)),
        **dict.fromkeys(("truncated_scale", "icepop_low"), at_least(0)),
        **dict.fromkeys(("prompts_to", "drop_above"), SHARE),
        **dict.fromkeys(("hint_shortest", "pass_k"), at_least(1)),
        "hint_share": ("must be from 0 to 1", lambda value: 0 <= value <= 1),
        "prompts_from": ("must be at least 0 and below 1", lambda value: 0 <= value < 1),
    }

    needs = justrl.Config.needs | {
        **dict.fromkeys(("cosine_on", "cosine_off"), requires("cosine_weight")),
        "entropy_step": requires("entropy_target"),
        "icepop_high": requires("icepop_low"),
    }

    def fault(self) -> str | None:
        if self.advantage == "pass@k" and self.pass_k > self.samples_per_prompt:
            return f"--pass_k must be at most --samples_per_prompt ({self.samples_per_prompt})"
        if self.advantage == "maxrl" and (self.wrong_reward < 0 or self.overlong_penalty):
            return (
                "--advantage maxrl needs rewards of at least 0: give --wrong_reward 0, no penalty"
            )
        if self.prompts_from >= self.prompts_to:
            return "--prompts_from must be below --prompts_to"
        if self.icepop_low and self.icepop_high <= self.icepop_low:
            return "--icepop_high must be above --icepop_low"
        if self.icepop_low and self.tis_cap:
            return "--icepop_low and --tis_cap exclude each other: both weigh engine mismatch"
        published = self.model == systems.ROWS.get(self.row, {}).get("model")
        if published and not torch.cuda.is_available():
            return f"--row {self.row} needs a GPU at its published scale: try it with --tiny"
        return super().fault() or (techniques.stages_fault(self) if self.stages else None)


# Scale alone changes, never the algorithm. The embedded world's model has never seen a heading.
TINY = justrl.TINY | dict(hint_prefill=True, hint_shortest=2)
SMALL = justrl.SMALL
RECIPE = "table1"  # the name of its run folders


# (4) Reward: JustRL's, but a wrong answer earns --wrong_reward.
def reward(rollouts: list[Rollout], problems: list[Problem], config: Config) -> list:
    """(verdict from 0 to 1, reward to train on) of each rollout."""
    scores, more = justrl.reward(rollouts, problems, config), config.wrong_reward + 1
    return [(right, value if right else value + more) for right, value in scores]


def command_line() -> Config:
    """The command line as a config: the defaults, then the row's values, then the flags given.

    With --tiny or --small a row shrinks to that scale, see systems.scaled_preset.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    early.add_argument("--row")
    early.add_argument("--steps", type=int)
    for name in ("tiny", "small"):
        early.add_argument(f"--{name}", type=truth, nargs="?", const=True)
    given, _ = early.parse_known_args()
    scales = {"tiny": TINY, "small": SMALL}
    if given.row in systems.ROWS:
        for name, scale in scales.items():
            steps = given.steps or scale["steps"]
            scales[name] = systems.scaled_preset(given.row, name, scale, steps)
        if not given.tiny and not given.small:
            scales = {"row": systems.as_flags(systems.ROWS[given.row])}
    config = parse(Config, scales, __doc__)
    if config.token_budget:
        config.steps = 999_999  # the tokens end the run
    return config


def main(config: Config) -> None:
    device = start_ranks(one_thread=config.tiny)
    model_dir = model_folder(config.model)
    tokenizer = load_tokenizer(model_dir)
    score = own_reward(config.reward) if config.reward else reward

    # (1) Prompt: the instruction follows the problem, in the user's turn.
    # ST: hints need the solutions too, and each stage has its own flags.
    stages = techniques.read_stages(config)
    hints = any(stage.config.hint_share for stage in stages)
    problems = load_problems(config.data, solutions=hints)
    template = Template(suffix=config.instruction, keep_system=config.keep_system)

    problems = encode_prompts(problems, tokenizer, template, config.max_prompt_tokens)
    held_out = load_problems(config.eval_data) if config.eval_every or config.decontaminate else []
    held_out = encode_prompts(held_out, tokenizer, template, config.max_prompt_tokens)
    problems = without(problems, held_out, drop=config.decontaminate)
    order = Order(len(problems), config.seed)
    run = Run(RECIPE, config)

    # (2) Sampling: the engine reports log-probs of the distribution that it samples from.
    # ST: the longest that any stage samples; AT, THP: each step has its own.
    training = Sampling(max(stage.config.max_response_tokens for stage in stages))
    evaluation = Sampling(config.eval_max_tokens, config.eval_temperature, config.eval_top_p)
    raw_logps = False

    samplings = [training, evaluation] if config.eval_every else [training]
    engine = make_engine(config, model_dir, tokenizer, samplings, raw_logps)
    policy = load_policy(config, model_dir, device)
    optimizer = make_optimizer(policy, config.weight_decay)

    # (3) A checkpoint also keeps this state. ST, AT, RR and DS remember, EC adapts, and RKL has a
    # reference policy.
    state = {"position": 0, "keep_rate": 1.0, "tokens": 0, "stage": 0, "success": {}, "dropped": []}
    state |= {"temperature": config.temperature, "diversity": 0.0, "rescue": {}, "rescued": 0}
    state |= {"entropy": None, "entropy_coef": config.entropy_coef}
    state |= {"accuracy": -1.0, "best": -1.0, "stalled": 0}
    if any(stage.config.kl_coefficient for stage in stages):
        state["reference"] = load_reference(model_dir, device)
    base, present = config, None
    encode = partial(encode_prompts, tokenizer=tokenizer, template=template)
    enter = partial(techniques.enter_stage, encode=encode)

    state = run.resume(state, problems, policy, optimizer)
    engine.load_weights(policy)
    self_check(engine, policy, problems[0].prompt_ids)

    def sample(batch, count, sampling, step, first=0) -> list[list[Rollout]]:
        """`count` scored responses to each problem, on every rank; each rank samples its share."""
        run.phase("rollout")
        seeds = [request_seed(config.seed, step, first + p) for p in range(len(batch))]
        mine = my_share(batch)
        groups = engine.generate([p.prompt_ids for p in mine], count, my_share(seeds), sampling)
        run.phase("reward")
        rollouts, asked = list(chain(*groups)), [p for p in mine for _ in range(count)]
        for rollout, problem in zip(rollouts, asked, strict=True):
            text = tokenizer.decode(rollout.response_ids, skip_special_tokens=True)
            rollout.text = problem.completed(text)
        for rollout, scores in zip(rollouts, score(rollouts, asked, config), strict=True):
            rollout.right, rollout.reward = map(float, scores)
        run.phase("rollout")
        return gather(groups)

    @run.timed("evaluate")
    def evaluate() -> float:
        """Held-out pass@1: the mean verdict over problems and samples, from the same seeds."""
        groups = sample(held_out, config.eval_samples, evaluation, step=0)
        run.keep_held_out(held_out, groups)
        return fmean(rollout.right for rollout in chain(*groups))

    if state["step"] == 0 and config.eval_every:
        state["accuracy"] = evaluate()
        run.log(0, {"eval_accuracy": state["accuracy"]})

    for step in run.steps(state["step"]):
        # (5) Sample a batch. ST, THP: with the stage's flags and problems. AT: at a temperature of
        # its own. RR: with earlier right answers. DS: of groups with mixed rewards.
        if 0 < config.token_budget <= state["tokens"]:
            break
        stage = techniques.stage_at(stages, step)
        if stage is not present:
            present, run.config = stage, stage.config
            pool, order = enter(stages, problems, state, step, sample=sample)
        config = run.config = replace(stage.config, temperature=state["temperature"])
        draw = partial(techniques.draw_groups, sample, state=state, run=run, step=step)
        draw_batch = techniques.BATCHES[config.dynamic_sampling]
        batch, groups, drawn = draw_batch(draw, pool, order, state, run)
        if 0 < config.token_budget <= state["tokens"]:
            config.steps = step  # the last one, which evaluates and saves

        engine.sleep()
        run.phase("logps")
        rollouts = list(chain(*groups))
        rewards_P_G = torch.tensor([[rollout.reward for rollout in group] for group in groups])

        # (6) Advantage: group mean, group std; or what --advantage names.
        advantages_P_G = techniques.advantages(rewards_P_G, groups, config)

        advantages, minibatches = advantages_P_G.flatten(), []
        for rows in equal_slices(len(rollouts), config.updates_per_step):
            # (7) A token's weight in the loss: the mean over all tokens of the mini-batch.
            weights_B_R = losses.token_weights(response_mask(rollouts[rows]), "token")

            minibatches.append(policy.cut(rollouts[rows], advantages[rows], weights_B_R))

        # (8) Old log-probs, of the policy that sampled (the first mini-batch's come with (9)). RKL:
        # and the reference's.
        with torch.no_grad():
            for micro in chain(*minibatches[1:]):
                micro.old_logps_M, micro.entropy_M = policy(micro, config.temperature)
            if config.kl_coefficient:
                with on_device(state["reference"]) as reference:
                    for micro in chain(*minibatches):
                        micro.ref_logps_M, _ = reference(micro, config.temperature)

        run.phase("update")
        set_learning_rate(optimizer, config.learning_rate, step, config.warmup_steps)
        grad_norms = []
        for minibatch in minibatches:
            for micro in minibatch:
                logps_M, entropy_M = policy(micro, config.temperature)
                micro.new_logps_M = logps_M.detach()
                if micro.old_logps_M is None:  # no update yet: this is the policy that sampled
                    micro.old_logps_M, micro.entropy_M = logps_M.detach(), entropy_M.detach()

                # (9) Loss: clip-higher with dual clip. RKL: a KL penalty. EC: an entropy bonus.
                clip = config.clip_low, config.clip_high, config.dual_clip
                loss_M = techniques.policy_loss(logps_M, micro, config)
                if config.icepop_low:
                    loss_M = techniques.icepop_importance(micro, config) * loss_M
                if config.kl_coefficient:
                    kl_M = losses.kl_penalty(logps_M, micro.ref_logps_M, config.kl_estimator)
                    loss_M += config.kl_coefficient * kl_M
                if bonus := techniques.entropy_coefficient(state, config):
                    loss_M -= bonus * entropy_M

                (loss_weights(micro, config.tis_cap) * loss_M).sum().backward()
            grad_norms.append(optimizer_step(policy, optimizer, config.max_grad_norm))

        run.phase("sync")
        engine.load_weights(policy)
        metrics = step_metrics(groups, minibatches, grad_norms, optimizer, clip)
        if run.due(step, config.eval_every):
            metrics["eval_accuracy"] = evaluate()

        # (10) RKL: a reset of the reference. EC: a new weight of the entropy bonus.
        metrics |= drawn | {"sampled_tokens": state["tokens"]}
        if config.kl_coefficient:
            metrics |= kl_metrics(config, minibatches)
            metrics |= hard_reset(step, metrics, state, policy, optimizer, config)
        metrics |= techniques.adapt_entropy(state, metrics, config)
        run.config = replace(base, steps=config.steps)  # the run's flags, without the stage's

        state["step"] = step
        run.keep_rollouts(step, batch, groups, advantages_P_G, minibatches, clip)
        run.log(step, metrics)
        run.save_when_due(state, policy, tokenizer, optimizer)
    run.finish(plot_run)


if __name__ == "__main__":
    launch(main, command_line())
