"""ProRL (arXiv 2505.24864): prolonged GRPO, with a KL penalty and resets of its reference policy.

    python prorl.py --tiny                          the embedded world, 1-2 minutes on a laptop
    python prorl.py                                 the paper's first run on one GPU
    torchrun --nproc-per-node 8 prorl.py            on eight
    python prorl.py --model DIR --data TRAIN.jsonl --eval_data TEST.jsonl       your own problems

The algorithm. The same numbers mark the code below:

    for each step:
        until the batch has 256 groups:
            (5) sample problems, 16 answers each; keep the groups whose rewards are not all equal
            (4) reward 1 if the last \\boxed{} is right, else 0
        (6) advantage A = (reward - group mean) / (group std + 1e-6)
        (7) split into 4 mini-batches; each of a mini-batch's T tokens weighs 1/T in its loss
        (8) old = log pi(token) of the policy that sampled, ref = that of the reference
        for each mini-batch:
            (9) r = exp(log pi - old);  KL = exp(ref - log pi) - 1 - (ref - log pi)
                loss = sum of weight * (max(-r A, -clip(r, 0.8, 1.4) A) + 1e-4 KL)
                one AdamW step
        push the new weights to the sampler
        (10) if validation has stalled: reference = policy, with a new optimizer

Mirrored: the paper's sections 2 and 3 and appendix F (in arXiv's first version E). Its eight runs
are flags of this script: see docs/papers.md. The KL penalty keeps a long training near a frozen
reference, and grows until the policy stops learning. A hard reset then makes the current policy the
reference, with a fresh optimizer.

Where this deviates, and why:
- It trains on two of the paper's five domains: mathematics and, with --logic_weight, logic puzzles.
  Code, science and instruction following need data and sandboxes that are not public or not small.
- The paper does not state the KL coefficient and estimator, the weight decay and the aggregation.
  The coefficient is the technical report's, the others (k3, 0.01, token mean) are those of the
  framework that the paper used. Around that time the framework dropped an entropy bonus of 0.001
  and got a dual clip of 3. Whether the paper's runs had either is not known. Here is neither.
- The paper resets by hand, when validation stalls. Here a reset comes after --reset_patience
  evaluations without a new best since the last reset, or every --reset_every steps.
- "A batch size of 256" is read as 256 prompts. The paper does not say what happens to prompts left
  over when a batch is full. Here they begin the next step.
- Equation 1 has one ratio for a response. Here, as in the framework, each token has its own.
- DAPO's code stops after --max_rounds without a full batch. Here the step trains on what it has.

Shape suffixes: _P prompts, _G samples of a group, _B rows of a batch, _R response positions, _T
sequence positions, _M response tokens end to end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from statistics import fmean
from typing import Literal

import torch

import losses
from rewards import deepscaler_match, robust_many
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
from trainer.run import presets
from trainer.run.flags import Flags, parse
from trainer.run.launch import launch, model_folder
from trainer.run.metrics import kl_metrics, rollout_metrics, step_metrics
from trainer.run.own_reward import own_reward
from trainer.run.run import Run
from trainer.sampler.engine import make_engine, request_seed, self_check
from trainer.sources.load import load_problems
from trainer.sources.logic import logic_score


# (0) Hyperparameters, at the paper's values. "Report" is arXiv 2507.12507, "framework" the default
# of the framework that the paper used.
@dataclass
class Config(Flags):
    model: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"  # hub id or local folder
    data: str = "agentica-org/DeepScaleR-Preview-Dataset"  # training problems: hub id or local file
    eval_data: str = "aime24"  # held-out problems (appendix F, its mathematics)
    # appended to each problem (appendix E)
    instruction: str = " Let's think step by step and output the final answer within \\boxed{}."
    seed: int = 0  # of data order and sampling

    steps: int = 2000  # rollout steps (model card)
    prompts_per_step: int = 256  # prompts a step, each with mixed rewards (section 3.2)
    samples_per_prompt: int = 16  # responses to each prompt; 32 in runs 6 and 7 (section 3.2)
    updates_per_step: int = 4  # optimizer updates a step: mini-batches of 64 prompts (section 3.2)
    temperature: float = 1.2  # of sampling (section 3.2)
    max_prompt_tokens: int = 1024  # longer prompts are dropped
    max_response_tokens: int = 8192  # longer responses are cut; 16384 in run 8 (section 3.3)
    max_rounds: int = 10  # of dynamic sampling (DAPO); then the step trains on what it has

    learning_rate: float = 2e-6  # AdamW, constant (section 3.2)
    warmup_steps: int = 0  # in rollout steps (framework)
    weight_decay: float = 0.01  # AdamW (framework)
    max_grad_norm: float = 1.0  # global gradient norm (framework)
    clip_low: float = 0.2  # the ratio is clipped below at 1 - 0.2 (section 3.2)
    clip_high: float = 0.4  # the ratio is clipped above at 1 + 0.4: clip-higher (section 3.2)
    kl_coefficient: float = 1e-4  # weight of the KL penalty in the loss (report)
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"  # (framework); see losses.kl_penalty
    reset_every: int = 0  # steps between hard resets of the reference; 0: only by patience
    reset_patience: int = 5  # evaluations without a new best before a reset; 0: never
    reset_optimizer: bool = True  # a reset also re-initialises the optimizer (section 2.3.1)

    logic_weight: float = 0.0  # share of Reasoning Gym puzzles among the problems (paper: 0.48)
    termination_penalty: bool = False  # runs 4 and 5: a response cut at the limit earns nothing

    eval_every: int = 20  # steps between evaluations; 0: never
    eval_samples: int = 16  # responses to each held-out problem (section 3.4)
    eval_temperature: float = 0.6  # of evaluations (section 3.4)
    eval_top_p: float = 0.95  # of evaluations (section 3.4)
    eval_max_tokens: int = 8192  # the training length (appendix F)


# Scale alone changes, never the algorithm.
TINY = presets.TINY | dict(
    model="tiny:compose",  # hardly ever solves a chain of ten functions: a boundary to move
    data="tiny:train/compose",
    eval_data="tiny:eval/compose-10",
    prompts_per_step=16,
    max_prompt_tokens=64,
    max_response_tokens=80,
    eval_max_tokens=80,
    reset_every=25,
)
SMALL = presets.SMALL | dict(prompts_per_step=16, reset_every=50)
RECIPE = "prorl"  # the name of its run folders


# (4) Reward: 1 or 0, right if either verifier accepts it. A puzzle has its own verifier: 0 to 1.
def reward(rollouts: list[Rollout], problems: list[Problem], config: Config) -> list:
    """(verdict from 0 to 1, reward to train on) of each rollout."""
    texts, answers = [r.text for r in rollouts], [p.answer for p in problems]
    verdicts, scores = robust_many(texts, answers), []
    for rollout, problem, verdict in zip(rollouts, problems, verdicts, strict=True):
        if problem.verify:
            right = logic_score(rollout.text, problem.verify)
        else:
            right = float(verdict > 0 or deepscaler_match(rollout.text, problem.answer) > 0)
        lost = config.termination_penalty and rollout.truncated
        scores.append((right, 0.0 if lost else right))
    return scores


# (5) Dynamic sampling: a group of equal rewards carries no signal, so others are sampled for it.
def mixed_groups(
    sample: Callable, problems: list[Problem], order: Order, state: dict, run: Run
) -> tuple[list[Problem], list[list[Rollout]], dict]:
    """Sample until the batch is full of groups with mixed rewards, or for --max_rounds rounds.

    sample(batch, first) samples a group for each problem; `first` counts those of earlier rounds.
    Moves state["position"] on and updates state["keep_rate"], the expected share of mixed groups.
    Returns the batch, its groups, and the metrics of everything that was sampled.
    """
    everything, kept, rounds, size = [], [], 0, run.config.prompts_per_step
    while len(kept) < size and rounds < run.config.max_rounds:
        # Ask for a tenth more than expected: another round takes as long as its longest response.
        wanted = math.ceil(1.1 * (size - len(kept)) / state["keep_rate"])
        start, count = state["position"], min(wanted, 2 * size)
        asked = [problems[i] for i in order[start : start + count]]
        fresh = sample(asked, first=len(everything))
        mixed = [p for p, group in enumerate(fresh) if len({r.reward for r in group}) > 1]
        taken = mixed[: size - len(kept)]
        # Prompts after the last that a full batch needs go back to the front of the order.
        state["position"] += count if taken == mixed else taken[-1] + 1
        kept += [(asked[p], fresh[p]) for p in taken]
        everything += fresh
        rounds += 1
        state["keep_rate"] = max(0.1, 0.7 * state["keep_rate"] + 0.3 * len(mixed) / len(fresh))
    if len(kept) < size:
        run.say(f"training on {len(kept)} groups: no more had mixed rewards in {rounds} rounds")
    metrics = {"sampled_groups": len(everything), "trained_groups": len(kept), "rounds": rounds}
    # If no group is mixed, the step trains on one of equal rewards, whose advantages are all 0.
    batch, groups = zip(*(kept or [(asked[0], fresh[0])]), strict=True)
    return list(batch), list(groups), rollout_metrics(everything) | metrics


# (10) Hard reset: on schedule, or when validation has stalled.
def hard_reset(step: int, metrics: dict, state: dict, policy, optimizer, config: Config) -> dict:
    """Make the policy the reference if a reset is due. Returns {"event": "reset"} then, else {}.

    state["accuracy"] is the last held-out accuracy, state["best"] the best before it since the last
    reset, and state["stalled"] counts the evaluations without a new best. An evaluation that only
    the end of --steps brings does not count, so that a run of more steps has the same resets.
    """
    if "eval_accuracy" in metrics and step % config.eval_every == 0:
        state["best"] = max(state["best"], state["accuracy"])
        state["accuracy"] = metrics["eval_accuracy"]
        state["stalled"] = 0 if state["accuracy"] > state["best"] else state["stalled"] + 1
    scheduled = config.reset_every > 0 and step % config.reset_every == 0
    if not scheduled and not 0 < config.reset_patience <= state["stalled"]:
        return {}
    state["reference"].copy_from(policy)
    if config.reset_optimizer:
        optimizer.state.clear()
    state |= {"best": -1.0, "stalled": 0}
    return {"event": "reset"}


def main(config: Config) -> None:
    device = start_ranks(one_thread=config.tiny)
    model_dir = model_folder(config.model)
    tokenizer = load_tokenizer(model_dir)
    score = own_reward(config.reward) if config.reward else reward

    # (1) Prompt: the instruction follows the problem, in the user's turn. Puzzles have their own.
    problems = load_problems(config.data)
    if config.logic_weight:
        count = max(1, round(len(problems) * config.logic_weight / (1 - config.logic_weight)))
        problems += load_problems(f"logic:train:{count}")
    template = Template(suffix=config.instruction, keep_system=config.keep_system)

    problems = encode_prompts(problems, tokenizer, template, config.max_prompt_tokens)
    held_out = load_problems(config.eval_data) if config.eval_every or config.decontaminate else []
    held_out = encode_prompts(held_out, tokenizer, template, config.max_prompt_tokens)
    problems = without(problems, held_out, drop=config.decontaminate)
    order = Order(len(problems), config.seed)
    run = Run(RECIPE, config)

    # (2) Sampling: the engine reports log-probs of the distribution that it samples from.
    training = Sampling(config.max_response_tokens, config.temperature)
    evaluation = Sampling(config.eval_max_tokens, config.eval_temperature, config.eval_top_p)
    raw_logps = False

    samplings = [training, evaluation] if config.eval_every else [training]
    engine = make_engine(config, model_dir, tokenizer, samplings, raw_logps)
    policy = load_policy(config, model_dir, device)
    optimizer = make_optimizer(policy, config.weight_decay)

    # (3) A checkpoint also keeps this state, with the KL penalty's reference, a frozen copy.
    state = {"position": 0, "keep_rate": 1.0, "accuracy": -1.0, "best": -1.0, "stalled": 0}
    state["reference"] = load_reference(model_dir, device)

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
        # (5) Sample a batch: only groups of mixed rewards.
        draw = partial(sample, count=config.samples_per_prompt, sampling=training, step=step)
        batch, groups, drawn = mixed_groups(draw, problems, order, state, run)

        engine.sleep()
        run.phase("logps")
        rollouts = list(chain(*groups))
        rewards_P_G = torch.tensor([[rollout.reward for rollout in group] for group in groups])

        # (6) Advantage: group mean, group std.
        advantages_P_G = losses.advantages(rewards_P_G, center="group", scale="group")

        advantages, minibatches = advantages_P_G.flatten(), []
        for rows in equal_slices(len(rollouts), config.updates_per_step):
            # (7) A token's weight in the loss: the mean over all tokens of the mini-batch.
            weights_B_R = losses.token_weights(response_mask(rollouts[rows]), "token")

            minibatches.append(policy.cut(rollouts[rows], advantages[rows], weights_B_R))

        # (8) Old log-probs (the first mini-batch's come with (9)), and the reference's.
        with torch.no_grad():
            for micro in chain(*minibatches[1:]):
                micro.old_logps_M, micro.entropy_M = policy(micro, config.temperature)
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

                # (9) Loss: clip-higher, and the KL penalty to the reference. No entropy bonus.
                clip = low, high = config.clip_low, config.clip_high
                loss_M = losses.clipped_policy_loss(
                    logps_M, micro.old_logps_M, micro.advantages_M, low, high
                )
                kl_M = losses.kl_penalty(logps_M, micro.ref_logps_M, config.kl_estimator)
                loss_M += config.kl_coefficient * kl_M

                (loss_weights(micro, config.tis_cap) * loss_M).sum().backward()
            grad_norms.append(optimizer_step(policy, optimizer, config.max_grad_norm))

        run.phase("sync")
        engine.load_weights(policy)
        metrics = step_metrics(groups, minibatches, grad_norms, optimizer, clip)
        if run.due(step, config.eval_every):
            metrics["eval_accuracy"] = evaluate()

        # (10) Hard reset of the reference to the present policy.
        metrics |= drawn | rollout_metrics(groups, "trained_") | kl_metrics(config, minibatches)
        metrics |= hard_reset(step, metrics, state, policy, optimizer, config)

        state["step"] = step
        run.keep_rollouts(step, batch, groups, advantages_P_G, minibatches, clip)
        run.log(step, metrics)
        run.save_when_due(state, policy, tokenizer, optimizer)
    run.finish(plot_run)


if __name__ == "__main__":
    launch(main, parse(Config, {"tiny": TINY, "small": SMALL}, __doc__))
