"""Lite PPO ("Part I: Tricks or Traps?", arXiv 2508.08221): critic-free PPO with two tricks.

    python liteppo.py --tiny                        the embedded world, 1-2 minutes on a laptop
    python liteppo.py                               the paper's run on one GPU of 141 GB, easy data
    torchrun --nproc-per-node 8 liteppo.py          on eight of 80 GB
    python liteppo.py --model DIR --data TRAIN.jsonl --eval_data TEST.jsonl     your own problems

The algorithm. The same numbers mark the code below:

    for each step:
        (5) sample 128 problems, 8 answers each, from the current policy
        (4) reward 1 if the last \\boxed{} is right, else 0
        (6) advantage A = (reward - group mean) / (std of all rewards + 1e-6)
        (7) each of the batch's T tokens weighs 1/T in the loss
        (8) old = log pi(token) of the policy that sampled
        (9) r = exp(log pi - old);  loss = sum of weight * max(-r A, -clip(r, 0.8, 1.2) A)
            one AdamW step
        push the new weights to the sampler

Mirrored: the paper's sections 3.1 and 5 and appendix A. The two tricks are (6), advantages centred
by the group's mean but scaled by the batch's standard deviation, and (7), a loss in which all
tokens have equal weight. The paper proposes them for base models without alignment. It is an
ablation study, so its four analyses are flags: --center and --scale, --clip_high, --aggregation,
--overlong_filter. With one update a batch every ratio is 1, and --clip_high does nothing, so
analysis 2 needs --updates_per_step 4, say. docs/papers.md has the baselines, GRPO and DAPO.

We follow the paper. The page about it in its authors' framework sets a critic's advantage
estimator, a KL loss and a sequence-level loss, which the paper rules out.

Where this deviates, and why:
- Answers are sampled with top-p 0.99 and top-k 100, but trained with the whole softmax, as in other
  code. With one update a batch this does no harm: the ratio is between the trainer's own log-probs
  and is 1. But top-p and top-k change the log-probs that an engine reports. So here the engine
  reports them at temperature 1 without truncation, and the trainer recomputes one micro-batch that
  way to measure the log-prob gap.
- The paper's runs sample one step ahead of the weights (asynchronously), so its ratios differ from
  1 (it reports 0.003 of a base model's tokens clipped). Here sampling and training take turns.
- The number of updates a batch is inferred (one). The paper does not state the gradient norm and
  the verifier; here they are 1.0 and equality in meaning.

Shape suffixes: _P prompts, _G samples of a group, _B rows of a batch, _R response positions, _T
sequence positions, _M response tokens end to end.
"""

from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Literal

import torch

import losses
from rewards import robust_many
from tools.plot import plot_run
from trainer.data import Order, Problem, Rollout, Sampling, Template, encode_prompts, without
from trainer.policy.loading import load_policy
from trainer.policy.policy import (
    equal_slices,
    loss_weights,
    make_optimizer,
    optimizer_step,
    response_mask,
    set_learning_rate,
)
from trainer.policy.pretrained import load_tokenizer
from trainer.ranks import gather, my_share, start_ranks
from trainer.run import presets
from trainer.run.flags import Flags, at_least, parse
from trainer.run.launch import launch, model_folder
from trainer.run.metrics import step_metrics
from trainer.run.own_reward import own_reward
from trainer.run.run import Run
from trainer.sampler.engine import make_engine, request_seed, self_check
from trainer.sources.load import load_problems


# (0) Hyperparameters, at the paper's values.
@dataclass
class Config(Flags):
    model: str = "Qwen/Qwen3-4B-Base"  # hub id or local folder (section 3.1; also Qwen3-8B-Base)
    data: str = "liteppo:easy"  # liteppo:easy, :medium or :hard (section 3.1), hub id or local file
    eval_data: str = "aime24,aime25,amc23"  # held-out problems (three of six, section 3.1)
    # the system message (appendix A.2)
    instruction: str = "Please reason step by step, and put your final answer within \\boxed{}."
    seed: int = 42  # of data order and sampling (appendix A.1)

    steps: int = 500  # rollout steps (appendix A.1; its figures run to 400-2000)
    prompts_per_step: int = 128  # prompts a step (section 3.1)
    samples_per_prompt: int = 8  # responses to each prompt: the group (section 3.1)
    updates_per_step: int = 1  # optimizer updates a step (inferred from appendix A.1)
    temperature: float = 0.99  # of sampling (section 3.1)
    top_p: float = 0.99  # of sampling (section 3.1)
    top_k: int = 100  # of sampling (section 3.1)
    max_prompt_tokens: int = 1024  # longer prompts are dropped (section 3.1)
    max_response_tokens: int = 8192  # longer responses are cut (section 3.1)

    learning_rate: float = 1e-6  # AdamW, constant (appendix A.1)
    warmup_steps: int = 50  # linear from 0, in rollout steps (appendix A.1)
    weight_decay: float = 0.0  # AdamW (appendix A.1)
    max_grad_norm: float = 1.0  # global gradient norm (unstated)
    center: Literal["group", "batch"] = "group"  # whose mean is subtracted (analysis 1)
    scale: Literal["group", "batch", "none"] = "batch"  # whose std divides (analysis 1)
    clip_low: float = 0.2  # the ratio is clipped below at 1 - 0.2
    clip_high: float = 0.2  # clipped above at 1 + 0.2; 0.24 to 0.32 in analysis 2, with updates > 1
    aggregation: Literal["token", "sequence"] = "token"  # what has equal weight (analysis 3)
    overlong_filter: bool = False  # mask truncated responses out of the loss (analysis 4)

    eval_every: int = 20  # steps between evaluations (appendix A.1: 1); 0: never
    eval_samples: int = 8  # responses to each held-out problem
    eval_temperature: float = 0.99  # as in training (unstated)
    eval_top_p: float = 0.99  # as in training (unstated)
    eval_max_tokens: int = 8192  # as in training (unstated)

    ranges = Flags.ranges | {"samples_per_prompt": at_least(1)}

    def fault(self) -> str | None:
        if self.samples_per_prompt < 2 and "group" in (self.center, self.scale):
            return "--samples_per_prompt must be at least 2: a group of one has no advantage"
        return super().fault()


# Scale alone changes, never the algorithm.
TINY = presets.TINY | dict(
    model="tiny:base", steps=80, learning_rate=3e-4, warmup_steps=10, eval_every=20
)
SMALL = presets.SMALL | dict(warmup_steps=10)
RECIPE = "liteppo"  # the name of its run folders


# (4) Reward: 1 or 0, is the last box equal to the answer in meaning?
def reward(rollouts: list[Rollout], problems: list[Problem], config: Config) -> list:
    """(verdict from 0 to 1, reward to train on) of each rollout."""
    texts, answers = [r.text for r in rollouts], [p.answer for p in problems]
    rewards = [float(verdict > 0) for verdict in robust_many(texts, answers)]
    return [(value, value) for value in rewards]


def main(config: Config) -> None:
    device = start_ranks(one_thread=config.tiny)
    model_dir = model_folder(config.model)
    tokenizer = load_tokenizer(model_dir)
    score = own_reward(config.reward) if config.reward else reward

    # (1) Prompt: the instruction is the system message.
    problems = load_problems(config.data)
    template = Template(system=config.instruction, keep_system=config.keep_system)

    problems = encode_prompts(problems, tokenizer, template, config.max_prompt_tokens)
    held_out = load_problems(config.eval_data) if config.eval_every or config.decontaminate else []
    held_out = encode_prompts(held_out, tokenizer, template, config.max_prompt_tokens)
    problems = without(problems, held_out, drop=config.decontaminate)
    order = Order(len(problems), config.seed)
    run = Run(RECIPE, config)

    # (2) Sampling: the engine reports log-probs of the whole softmax, at temperature 1.
    training = Sampling(config.max_response_tokens, config.temperature, config.top_p, config.top_k)
    evaluation = Sampling(config.eval_max_tokens, config.eval_temperature, config.eval_top_p)
    raw_logps = True

    samplings = [training, evaluation] if config.eval_every else [training]
    engine = make_engine(config, model_dir, tokenizer, samplings, raw_logps)
    policy = load_policy(config, model_dir, device)
    optimizer = make_optimizer(policy, config.weight_decay)

    # (3) A checkpoint also keeps this state. No reference policy: there is no KL penalty.
    state = {"position": 0}

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
        # (5) Sample a batch. No group is dropped or replaced, whatever its rewards.
        places = order[state["position"] : state["position"] + config.prompts_per_step]
        state["position"] += len(places)
        batch = [problems[i] for i in places]
        groups = sample(batch, config.samples_per_prompt, training, step)

        engine.sleep()
        run.phase("logps")
        rollouts = list(chain(*groups))
        rewards_P_G = torch.tensor([[rollout.reward for rollout in group] for group in groups])

        # (6) Advantage: group mean, batch std of the raw rewards (analysis 1).
        advantages_P_G = losses.advantages(rewards_P_G, center=config.center, scale=config.scale)

        advantages, minibatches = advantages_P_G.flatten(), []
        for rows in equal_slices(len(rollouts), config.updates_per_step):
            # (7) A token's weight: the mean over the mini-batch's tokens (analyses 3 and 4).
            mask_B_R = response_mask(rollouts[rows])
            if config.overlong_filter:
                mask_B_R &= ~torch.tensor([[rollout.truncated] for rollout in rollouts[rows]])
            weights_B_R = losses.token_weights(mask_B_R, config.aggregation)

            minibatches.append(policy.cut(rollouts[rows], advantages[rows], weights_B_R))

        # (8) Old log-probs (the first mini-batch's come with (9)). Some at temperature 1 too.
        with torch.no_grad():
            for micro in chain(*minibatches[1:]):
                micro.old_logps_M, micro.entropy_M = policy(micro, config.temperature)
            for micro in chain(*minibatches) if config.tis_cap else minibatches[0][:1]:
                micro.raw_logps_M, _ = policy(micro, temperature=1.0)

        run.phase("update")
        set_learning_rate(optimizer, config.learning_rate, step, config.warmup_steps)
        grad_norms = []
        for minibatch in minibatches:
            for micro in minibatch:
                logps_M, entropy_M = policy(micro, config.temperature)
                micro.new_logps_M = logps_M.detach()
                if micro.old_logps_M is None:  # no update yet: this is the policy that sampled
                    micro.old_logps_M, micro.entropy_M = logps_M.detach(), entropy_M.detach()

                # (9) Loss: the plain clip (analysis 2). No KL penalty, no entropy bonus.
                clip = low, high = config.clip_low, config.clip_high
                loss_M = losses.clipped_policy_loss(
                    logps_M, micro.old_logps_M, micro.advantages_M, low, high
                )

                (loss_weights(micro, config.tis_cap) * loss_M).sum().backward()
            grad_norms.append(optimizer_step(policy, optimizer, config.max_grad_norm))

        run.phase("sync")
        engine.load_weights(policy)
        metrics = step_metrics(groups, minibatches, grad_norms, optimizer, clip)
        if run.due(step, config.eval_every):
            metrics["eval_accuracy"] = evaluate()

        # (10) No reset.

        state["step"] = step
        run.keep_rollouts(step, batch, groups, advantages_P_G, minibatches, clip)
        run.log(step, metrics)
        run.save_when_due(state, policy, tokenizer, optimizer)
    run.finish(plot_run)


if __name__ == "__main__":
    launch(main, parse(Config, {"tiny": TINY, "small": SMALL}, __doc__))
