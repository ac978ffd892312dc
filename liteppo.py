"""Lite PPO ("Part I: Tricks or Traps?", arXiv 2508.08221): critic-free PPO with two tricks, and no other.

    python liteppo.py --tiny                                       the embedded world, a laptop CPU, a few minutes
    python liteppo.py                                              the paper's run on one GPU, easy data
    torchrun --nproc-per-node 8 liteppo.py                         on eight
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-endpoint HOST:29500 --rdzv-backend c10d liteppo.py
    python liteppo.py --model DIR --data FILE.jsonl --eval_data FILE.jsonl    your own model and problems

Mirrored: the paper's sections 3.1 and 5 and appendix A. The two tricks: advantages centred by the group's mean but
scaled by the batch's standard deviation, and a loss that weighs every token alike. Proposed for base models that no one
has aligned yet. The paper is an ablation study, so its four analyses are flags: --center and --scale, --clip_high,
--aggregation, --overlong_filter. The README builds its baselines, GRPO and DAPO, from them.

Followed is the paper, not the page about it in its authors' framework, which sets a critic's advantage estimator, a KL
loss and a sequence-level loss that the paper rules out.

Where this deviates, and why:
- Answers are sampled with top-p 0.99 and top-k 100, but trained with the whole softmax, as everywhere. With one update
  a batch this does no harm, for the ratio is between the trainer's own log-probs and is 1. It would spoil the log-prob
  gap, so the engine reports the untouched softmax (temperature 1), and the trainer compares one micro-batch at that.
- The paper's runs sample one step ahead of the weights (asynchronously); here sampling and training take turns.
- The number of updates a batch is inferred (one), and gradient norm and verifier are unstated (1.0; equal in meaning).
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from transformers.hf_argparser import HfArg

import losses
from rewards import robust_many
from trainer.data import Order, Sampling, Template, encode_prompts
from trainer.policy import (
    TokenMeans,
    gather,
    load_policy,
    load_tokenizer,
    micro_batches,
    my_share,
    optimizer_step,
    response_mask,
    start_ranks,
)
from trainer.rollout import check_gap, choose_engine, make_engine, request_seed, self_check
from trainer.run import Run, gradient_metrics, launch, model_folder, parse, rollout_metrics
from trainer.sources.load import load_problems


# (0) Every hyperparameter, at the paper's value.
@dataclass
class Config:
    tiny: bool = HfArg(
        default=False, help="run in the embedded world: only scale changes, never the algorithm"
    )
    model: str = HfArg(
        default="Qwen/Qwen3-4B-Base",
        help="hub id or local folder (section 3.1; also Qwen3-8B-Base)",
    )
    data: str = HfArg(
        default="liteppo:easy",
        help="liteppo:easy, :medium or :hard (section 3.1), hub id or local file",
    )
    eval_data: str = HfArg(
        default="math-ai/aime24,math-ai/aime25,math-ai/amc23",
        help="held-out problems (section 3.1)",
    )
    instruction: str = HfArg(
        default="Please reason step by step, and put your final answer within \\boxed{}.",
        help="the system message (appendix A.2)",
    )
    out: str = HfArg(default="", help="run folder; default runs/liteppo-seedN")
    seed: int = HfArg(default=42, help="of data order and sampling (appendix A.1)")
    engine: str = HfArg(
        default="auto", help="vllm, transformers, or auto: vllm where there is a GPU"
    )

    steps: int = HfArg(
        default=500, help="rollout steps (appendix A.1; its figures run to 400-2000)"
    )
    prompts_per_step: int = HfArg(default=128, help="prompts a step (section 3.1)")
    samples_per_prompt: int = HfArg(default=8, help="responses to each: the group (section 3.1)")
    updates_per_step: int = HfArg(
        default=1, help="optimizer updates a step (inferred from appendix A.1)"
    )
    temperature: float = HfArg(default=0.99, help="of sampling (section 3.1)")
    top_p: float = HfArg(default=0.99, help="of sampling (section 3.1)")
    top_k: int = HfArg(default=100, help="of sampling (section 3.1)")
    max_prompt_tokens: int = HfArg(default=1024, help="longer prompts are dropped (section 3.1)")
    max_response_tokens: int = HfArg(default=8192, help="longer responses are cut (section 3.1)")

    learning_rate: float = HfArg(default=1e-6, help="AdamW, constant (appendix A.1)")
    warmup_steps: int = HfArg(default=50, help="linear from 0, in rollout steps (appendix A.1)")
    weight_decay: float = HfArg(default=0.0, help="AdamW (appendix A.1)")
    max_grad_norm: float = HfArg(default=1.0, help="global gradient norm (unstated)")
    center: Literal["group", "batch"] = HfArg(
        default="group", help="group or batch: whose mean is subtracted from a reward (analysis 1)"
    )
    scale: Literal["group", "batch", "none"] = HfArg(
        default="batch", help="group, batch or none: whose std it is divided by (analysis 1)"
    )
    clip_low: float = HfArg(default=0.2, help="ratio clipped below at 1 - 0.2")
    clip_high: float = HfArg(
        default=0.2, help="and above at 1 + 0.2; 0.24, 0.28, 0.32 in analysis 2"
    )
    aggregation: Literal["token", "sequence"] = HfArg(
        default="token", help="token or sequence: what weighs alike in the loss (analysis 3)"
    )
    overlong_filter: bool = HfArg(
        default=False, help="mask truncated answers out of the loss (analysis 4)"
    )
    tis_cap: float = HfArg(
        default=0.0, help="truncated importance sampling against engine mismatch; 0 = off (paper)"
    )

    eval_every: int = HfArg(default=20, help="steps between evaluations")
    eval_samples: int = HfArg(default=8, help="responses to each held-out problem")
    eval_temperature: float = HfArg(default=0.99, help="as in training (unstated)")
    eval_top_p: float = HfArg(default=0.99, help="as in training (unstated)")
    eval_max_tokens: int = HfArg(default=8192, help="as in training (unstated)")

    tokens_per_micro_batch: int = HfArg(
        default=32768, help="padded tokens in memory at once; no effect on the result"
    )
    gradient_checkpointing: bool = HfArg(
        default=True, help="recompute activations instead of keeping them"
    )
    save_every: int = HfArg(default=50, help="steps between checkpoints")
    keep_checkpoints: int = HfArg(default=2, help="older ones are deleted")


TINY = dict(
    model="tiny:base",
    data="tiny:train/mixed",
    eval_data="tiny:eval/mixed",
    instruction="",  # the embedded world's model knows no English
    seed=0,
    steps=80,
    prompts_per_step=32,
    learning_rate=3e-4,
    warmup_steps=10,
    max_prompt_tokens=48,
    max_response_tokens=64,
    eval_every=20,
    eval_samples=4,
    eval_max_tokens=64,
    tokens_per_micro_batch=8192,
    gradient_checkpointing=False,
    save_every=20,
)
RECIPE, HOW_LONG = (
    "liteppo",
    {True: "about 3 minutes on 2 cores", False: "the first steps will tell"},
)


def main(config: Config) -> None:
    _, world, device = start_ranks()
    if config.tiny:
        torch.set_num_threads(
            1
        )  # the tiny model is no faster on several, and one repeats to the digit on any machine
    if device.type == "cpu" and not config.tiny and not Path(config.model).is_dir():
        raise ValueError(
            "the paper's scale needs a GPU: try --tiny, or --model with a local folder of a small model"
        )
    engine_kind = choose_engine(config.engine)
    run = Run(RECIPE, config)
    torch.manual_seed(config.seed)  # nothing here draws from it, but a model with dropout would

    # Problems, and their prompts as token ids: tokenised once, here.
    model_dir = model_folder(config.model)
    tokenizer = load_tokenizer(model_dir)
    problems = load_problems(config.data)
    held_out = load_problems(config.eval_data)

    # (1) Prompt: the instruction is the system message.
    template = Template("", config.instruction, config.max_prompt_tokens)

    problems, prompts = encode_prompts(problems, tokenizer, template)
    held_out, held_out_prompts = encode_prompts(held_out, tokenizer, template)
    order = Order(len(problems), config.seed)

    # (2) The engine reports log-probs of the untouched softmax: top-p and top-k would spoil the gap.
    longest = config.max_prompt_tokens + max(config.max_response_tokens, config.eval_max_tokens)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    engine = make_engine(
        engine_kind, model_dir, tokenizer, max_length=longest, dtype=dtype, raw_logps=True
    )

    # The policy, which the engine samples from a copy of, and its optimizer.
    policy = load_policy(model_dir, device, dtype, config.gradient_checkpointing)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=0.0, betas=(0.9, 0.999), weight_decay=config.weight_decay
    )

    # (3) No reference policy: there is no KL penalty.
    reference = None
    state = run.resume(policy, optimizer, reference)

    position = state.get("position", 0)
    engine.load_weights(policy)
    self_check(engine, policy, prompts[0])

    # (4) Reward: 1 or 0, is the last box equal to the answer in meaning?
    def score(rollouts, problems) -> None:
        texts, answers = (
            [rollout.text for rollout in rollouts],
            [problem.answer for problem in problems],
        )
        for rollout, verdict in zip(rollouts, robust_many(texts, answers), strict=True):
            rollout.right = rollout.reward = float(verdict > 0)

    def sample(problems_P, prompts_P, seeds_P, n, sampling) -> list:
        """P groups of n scored rollouts, on every rank; each rank samples and scores its share of the prompts."""
        with run.clock("rollout"):
            groups = engine.generate(my_share(prompts_P), n, my_share(seeds_P), sampling)
        with run.clock("reward"):
            for rollout in chain(*groups):
                rollout.text = tokenizer.decode(rollout.response_ids, skip_special_tokens=True)
            score(
                list(chain(*groups)),
                [problem for problem in my_share(problems_P) for _ in range(n)],
            )
        with run.clock("rollout"):
            return gather(groups)

    def evaluate() -> float:
        """Held-out pass@1: the mean verdict over problems and samples, from the same seeds every time."""
        seeds_P = [request_seed(config.seed, 0, p) for p in range(len(held_out))]
        sampling = Sampling(config.eval_max_tokens, config.eval_temperature, config.eval_top_p)
        with run.clock("evaluate"):
            groups = sample(held_out, held_out_prompts, seeds_P, config.eval_samples, sampling)
        return fmean(rollout.right for rollout in chain(*groups))

    run.say(
        f"{RECIPE}: {config.model} on {len(problems)} problems, {config.steps} steps of {config.prompts_per_step} "
        f"prompts x {config.samples_per_prompt}, {engine_kind} engine, {world} rank(s): {HOW_LONG[config.tiny]}."
    )
    if state["step"] == 0:
        run.log({"step": 0, "eval_accuracy": evaluate()})

    for step in run.steps(state["step"]):
        # (5) Sample a batch. No group is dropped or replaced, whatever its rewards.
        batch = order[position : position + config.prompts_per_step]
        position += len(batch)
        seeds_P = [request_seed(config.seed, step, p) for p in range(len(batch))]
        sampling = Sampling(
            config.max_response_tokens, config.temperature, config.top_p, config.top_k
        )
        batch_problems, batch_prompts = [problems[i] for i in batch], [prompts[i] for i in batch]
        groups = sample(batch_problems, batch_prompts, seeds_P, config.samples_per_prompt, sampling)
        metrics = rollout_metrics(list(chain(*groups)))

        with run.clock("sync"):
            engine.sleep()
        rollouts_N = list(chain(*groups))
        rewards_P_G = torch.tensor([[rollout.reward for rollout in group] for group in groups])
        metrics["reward_std"] = (
            rewards_P_G.std(dim=1).mean().item()
        )  # inside a group, as the advantage sees it

        # (6) Advantage: group mean, batch std of the raw rewards; analysis 1.
        advantages_N = losses.advantages(
            rewards_P_G, center=config.center, scale=config.scale
        ).flatten()

        minibatches = []
        for rows in torch.arange(len(rollouts_N)).chunk(config.updates_per_step):
            members = [rollouts_N[i] for i in rows]

            # (7) The weight of a token in the loss: a mean over all tokens of the mini-batch; analyses 3 and 4.
            mask_N_T = response_mask(members)
            if config.overlong_filter:
                mask_N_T &= ~torch.tensor([[rollout.truncated] for rollout in members])
            weights_N_T = losses.token_weights(mask_N_T, config.aggregation)

            budget = config.tokens_per_micro_batch
            minibatches.append(
                micro_batches(members, advantages_N[rows], weights_N_T, budget, device)
            )

        with run.clock("logps"), torch.no_grad():
            # (8) Old log-probs. The first mini-batch meets the weights it was sampled from: its own pass yields them.
            for micro in chain(*minibatches[1:]):
                micro.old_logps_M, micro.entropy_M = policy(
                    micro.ids_N_T, micro.mask_N_T, config.temperature
                )
            # What the engine reports is at temperature 1: so must be what it is compared with.
            for micro in chain(*minibatches) if config.tis_cap else minibatches[0][:1]:
                micro.raw_logps_M, _ = policy(micro.ids_N_T, micro.mask_N_T, 1.0)

        with run.clock("update"):
            for parameters in optimizer.param_groups:
                parameters["lr"] = config.learning_rate * min(
                    1.0, (step - 1) / max(1, config.warmup_steps)
                )
            updates, grad_norms = TokenMeans(), []
            for minibatch in minibatches:
                for micro in minibatch:
                    logps_M, entropy_M = policy(micro.ids_N_T, micro.mask_N_T, config.temperature)
                    if micro.old_logps_M is None:
                        micro.old_logps_M, micro.entropy_M = logps_M.detach(), entropy_M
                    surrogate = (
                        logps_M,
                        micro.old_logps_M,
                        micro.advantages_M,
                        config.clip_low,
                        config.clip_high,
                    )

                    # (9) Loss: the plain clip; analysis 2. No KL penalty, no entropy bonus.
                    loss_M = losses.clipped_policy_loss(*surrogate)
                    if config.tis_cap:
                        loss_M *= losses.truncated_importance(
                            micro.raw_logps_M, micro.engine_logps_M, config.tis_cap
                        )
                    updates.add(**losses.update_diagnostics(*surrogate))

                    (micro.weights_M * loss_M).sum().backward()
                grad_norms.append(optimizer_step(policy, optimizer, config.max_grad_norm))

        with run.clock("sync"):
            engine.load_weights(policy)

        # (10) The log-prob gap between engine and trainer, over the tokens compared.
        behaviour, gaps = TokenMeans(), TokenMeans()
        for micro in chain(*minibatches):
            behaviour.add(entropy=micro.entropy_M)
            if micro.raw_logps_M is not None:
                gaps.add(logp_gap=(micro.raw_logps_M - micro.engine_logps_M).abs())

        metrics = {"step": step, **metrics, **behaviour.means(), **gaps.means(), **updates.means()}
        metrics |= {"logp_gap_max": gaps.maximum("logp_gap"), **gradient_metrics(grad_norms)}
        metrics["learning_rate"] = parameters["lr"]
        last = run.last(step)
        if step % config.eval_every == 0 or step == config.steps:
            metrics["eval_accuracy"] = evaluate()

        # (11) No reset: nothing is scheduled.
        memory = {"position": position}

        run.log(metrics)
        run.log_samples(
            step,
            groups,
            [problems[i] for i in batch],
            advantages_N,
            show=step % config.eval_every == 0,
        )
        check_gap(metrics["logp_gap"], step, run.say)
        if step % config.save_every == 0 or last:
            run.save(step, policy, tokenizer, optimizer, memory, config.keep_checkpoints, reference)
    run.finish()


if __name__ == "__main__":
    launch(main, parse(Config, TINY, __doc__))
