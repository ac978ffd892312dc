"""ProRL (arXiv 2505.24864): prolonged GRPO with clip-higher, dynamic sampling, a KL penalty and reference resets.

    python prorl.py --tiny                                         the embedded world, a laptop CPU, a few minutes
    python prorl.py                                                the paper's first run on one GPU
    torchrun --nproc-per-node 8 prorl.py                           on eight
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-endpoint HOST:29500 --rdzv-backend c10d prorl.py
    python prorl.py --model DIR --data FILE.jsonl --eval_data FILE.jsonl      your own model and problems

Mirrored: the paper's sections 2 and 3 and appendix F. Its eight runs are flags of this script: see the README's table.
The penalty holds the policy near a frozen reference and so lets it train for long; but the longer it trains, the larger
the penalty grows, until nothing more is learnt. A hard reset then makes the present policy the reference, with a fresh
optimizer, and training goes on.

Where this deviates, and why:
- Mathematics, and with --logic_weight logic puzzles, of the paper's five domains. Code, science and instruction
  following need data and sandboxes that are not public or not small.
- The paper states neither KL coefficient nor estimator, neither weight decay nor loss aggregation. The coefficient is
  that of the technical report (1e-4); for the others stand the values of the framework it used (k3, 0.01, token mean).
- The paper resets by hand, when validation stalls. Here a reset comes after --reset_patience evaluations without a new
  best since the last reset, or every --reset_every steps.
- The paper is silent on what DAPO's sampling does with prompts that a full batch no longer needs: here they go back to
  the front of the order.
"""

import math
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from transformers.hf_argparser import HfArg

import losses
from rewards import deepscaler_match, robust_many
from trainer.data import Order, Sampling, Template, encode_prompts
from trainer.policy import (
    TokenMeans,
    gather,
    load_policy,
    load_reference,
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
from trainer.sources.logic import logic_score


# (0) Every hyperparameter, at the paper's value. "Report" is arXiv 2507.12507, "framework" the default of the one used.
@dataclass
class Config:
    tiny: bool = HfArg(
        default=False, help="run in the embedded world: only scale changes, never the algorithm"
    )
    model: str = HfArg(
        default="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", help="hub id or local folder"
    )
    data: str = HfArg(
        default="agentica-org/DeepScaleR-Preview-Dataset",
        help="training problems: hub id or local file",
    )
    eval_data: str = HfArg(
        default="math-ai/aime24", help="held-out problems (appendix F, its mathematics)"
    )
    instruction: str = HfArg(
        default=" Let's think step by step and output the final answer within \\boxed{}.",
        help="appended to each problem (appendix E)",
    )
    out: str = HfArg(default="", help="run folder; default runs/prorl-seedN")
    seed: int = HfArg(default=0, help="of data order and sampling")
    engine: str = HfArg(
        default="auto", help="vllm, transformers, or auto: vllm where there is a GPU"
    )

    steps: int = HfArg(default=2000, help="rollout steps (model card)")
    prompts_per_step: int = HfArg(
        default=256, help="prompts a step, each with mixed rewards (section 3.2)"
    )
    samples_per_prompt: int = HfArg(
        default=16, help="responses to each; 32 in runs 6 and 7 (section 3.2)"
    )
    updates_per_step: int = HfArg(
        default=4, help="optimizer updates a step: mini-batches of 64 prompts (section 3.2)"
    )
    temperature: float = HfArg(default=1.2, help="of sampling (section 3.2)")
    max_prompt_tokens: int = HfArg(default=1024, help="longer prompts are dropped")
    max_response_tokens: int = HfArg(
        default=8192, help="longer responses are cut; 16384 in run 8 (section 3.2)"
    )
    max_rounds: int = HfArg(
        default=10, help="of dynamic sampling; then train on the groups there are (DAPO)"
    )

    learning_rate: float = HfArg(default=2e-6, help="AdamW, constant (section 3.2)")
    warmup_steps: int = HfArg(default=0, help="in rollout steps (framework)")
    weight_decay: float = HfArg(default=0.01, help="AdamW (framework)")
    max_grad_norm: float = HfArg(default=1.0, help="global gradient norm (framework)")
    clip_low: float = HfArg(default=0.2, help="ratio clipped below at 1 - 0.2 (section 3.2)")
    clip_high: float = HfArg(default=0.4, help="and above at 1 + 0.4: clip-higher (section 3.2)")
    kl_coefficient: float = HfArg(
        default=1e-4, help="weight of the KL penalty in the loss (report)"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = HfArg(
        default="k3", help="k1, k2 or k3 (framework); see losses.kl_penalty"
    )
    reset_every: int = HfArg(
        default=0, help="steps between hard resets of the reference; 0: by patience alone"
    )
    reset_patience: int = HfArg(
        default=5, help="evaluations without a new best that bring a reset; 0: never"
    )
    reset_optimizer: bool = HfArg(
        default=True, help="a reset also re-initialises the optimizer (section 2.3.1)"
    )

    logic_weight: float = HfArg(
        default=0.0, help="share of Reasoning Gym puzzles among the problems (paper: 0.48)"
    )
    termination_penalty: bool = HfArg(
        default=False, help="runs 4 and 5: an answer cut at the limit earns nothing"
    )
    tis_cap: float = HfArg(
        default=0.0, help="truncated importance sampling against engine mismatch; 0 = off (paper)"
    )

    eval_every: int = HfArg(default=20, help="steps between evaluations")
    eval_samples: int = HfArg(default=16, help="responses to each held-out problem (section 3.4)")
    eval_temperature: float = HfArg(default=0.6, help="(section 3.4)")
    eval_top_p: float = HfArg(default=0.95, help="(section 3.4)")
    eval_max_tokens: int = HfArg(default=8192, help="the training length (appendix F)")

    tokens_per_micro_batch: int = HfArg(
        default=32768, help="padded tokens in memory at once; no effect on the result"
    )
    gradient_checkpointing: bool = HfArg(
        default=True, help="recompute activations instead of keeping them"
    )
    save_every: int = HfArg(default=50, help="steps between checkpoints")
    keep_checkpoints: int = HfArg(default=2, help="older ones are deleted")


TINY = dict(
    model="tiny:aligned",
    data="tiny:train/mixed",
    eval_data="tiny:eval/mixed",
    instruction="",  # the embedded world's model knows no English
    seed=0,
    steps=60,
    prompts_per_step=16,
    learning_rate=1e-4,
    max_prompt_tokens=48,
    max_response_tokens=64,
    reset_every=25,
    eval_every=10,
    eval_samples=4,
    eval_max_tokens=64,
    tokens_per_micro_batch=8192,
    gradient_checkpointing=False,
    save_every=20,
)
RECIPE, HOW_LONG = (
    "prorl",
    {True: "about 3 minutes on 2 cores", False: "the paper's runs took 16,000 GPU-hours (H100)"},
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

    # (1) Prompt: the instruction stands in the user's turn, after the problem. Logic puzzles bring their own.
    if config.logic_weight:
        count = round(len(problems) * config.logic_weight / (1 - config.logic_weight))
        problems += load_problems(f"logic:train:{count}")
    template = Template(config.instruction, "", config.max_prompt_tokens)

    problems, prompts = encode_prompts(problems, tokenizer, template)
    held_out, held_out_prompts = encode_prompts(held_out, tokenizer, template)
    order = Order(len(problems), config.seed)

    # (2) The engine reports log-probs of the distribution it samples from.
    longest = config.max_prompt_tokens + max(config.max_response_tokens, config.eval_max_tokens)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    engine = make_engine(engine_kind, model_dir, tokenizer, max_length=longest, dtype=dtype)

    # The policy, which the engine samples from a copy of, and its optimizer.
    policy = load_policy(model_dir, device, dtype, config.gradient_checkpointing)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=0.0, betas=(0.9, 0.999), weight_decay=config.weight_decay
    )

    # (3) The reference of the KL penalty: a frozen copy in low precision, on the device only while it computes.
    reference = load_reference(model_dir, dtype)
    state = {"keep_rate": 1.0, "best": -1.0, "stalled": 0} | run.resume(
        policy, optimizer, reference
    )

    position = state.get("position", 0)
    engine.load_weights(policy)
    self_check(engine, policy, prompts[0])

    # (4) Reward: 1 or 0, right if either verifier accepts it; a puzzle's is the score its own verifier gives, 0 to 1.
    def score(rollouts, problems) -> None:
        texts, answers = (
            [rollout.text for rollout in rollouts],
            [problem.answer for problem in problems],
        )
        for rollout, problem, verdict in zip(
            rollouts, problems, robust_many(texts, answers), strict=True
        ):
            if problem.verify:
                rollout.right = logic_score(rollout.text, problem.verify)
            else:
                rollout.right = float(
                    verdict > 0 or deepscaler_match(rollout.text, problem.answer) > 0
                )
            rollout.reward = (
                0.0 if config.termination_penalty and rollout.truncated else rollout.right
            )

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
        # (5) Dynamic sampling: groups of equal rewards carry no signal, so go on until the batch is full of others.
        everything, kept, rounds = [], [], 0
        while len(kept) < config.prompts_per_step and rounds < config.max_rounds:
            wanted = math.ceil((config.prompts_per_step - len(kept)) / state["keep_rate"])
            wanted = min(wanted, 2 * config.prompts_per_step)
            asked = order[position : position + wanted]
            position += len(asked)
            seeds_P = [
                request_seed(config.seed, step, len(everything) + p) for p in range(len(asked))
            ]
            sampling = Sampling(config.max_response_tokens, config.temperature)
            asked_problems, asked_prompts = (
                [problems[i] for i in asked],
                [prompts[i] for i in asked],
            )
            fresh = sample(
                asked_problems, asked_prompts, seeds_P, config.samples_per_prompt, sampling
            )
            mixed = [
                p for p, group in enumerate(fresh) if len({rollout.reward for rollout in group}) > 1
            ]
            taken = mixed[: config.prompts_per_step - len(kept)]
            if len(mixed) > len(
                taken
            ):  # the batch is full: prompts after its last one go back to the order's front
                position += taken[-1] + 1 - len(asked)
            kept += [(asked[p], fresh[p]) for p in taken]
            everything += fresh
            rounds += 1
            state["keep_rate"] = max(0.1, 0.7 * state["keep_rate"] + 0.3 * len(mixed) / len(fresh))
        if len(kept) < config.prompts_per_step:
            run.say(
                f"step {step}: only {len(kept)} groups of mixed rewards after {rounds} rounds; training on those"
            )
        batch, groups = zip(
            *(kept or [(asked[0], fresh[0])]), strict=True
        )  # none at all: a step of zero advantages
        metrics = rollout_metrics(list(chain(*everything)))
        metrics |= {
            f"trained_{name}": value
            for name, value in rollout_metrics(list(chain(*groups))).items()
        }
        metrics |= {
            "sampled_groups": len(everything),
            "trained_groups": len(kept),
            "rounds": rounds,
        }

        with run.clock("sync"):
            engine.sleep()
        rollouts_N = list(chain(*groups))
        rewards_P_G = torch.tensor([[rollout.reward for rollout in group] for group in groups])
        metrics["reward_std"] = (
            rewards_P_G.std(dim=1).mean().item()
        )  # inside a group, as the advantage sees it

        # (6) Advantage: group mean, group std.
        advantages_N = losses.advantages(rewards_P_G, center="group", scale="group").flatten()

        minibatches = []
        for rows in torch.arange(len(rollouts_N)).chunk(config.updates_per_step):
            members = [rollouts_N[i] for i in rows]

            # (7) The weight of a token in the loss: the mean over all tokens of the mini-batch.
            weights_N_T = losses.token_weights(response_mask(members), "token")

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
            reference.to(device)
            for micro in chain(*minibatches):
                micro.ref_logps_M, _ = reference(micro.ids_N_T, micro.mask_N_T, config.temperature)
            reference.to("cpu")

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

                    # (9) Loss: clip-higher, and the KL penalty to the reference. No entropy bonus.
                    loss_M = losses.clipped_policy_loss(*surrogate)
                    if config.tis_cap:
                        loss_M *= losses.truncated_importance(
                            micro.old_logps_M, micro.engine_logps_M, config.tis_cap
                        )
                    kl_M = losses.kl_penalty(logps_M, micro.ref_logps_M, config.kl_estimator)
                    sizes = {"policy_loss_size": loss_M.detach().abs(), "kl": kl_M.detach()}
                    loss_M += config.kl_coefficient * kl_M
                    updates.add(**losses.update_diagnostics(*surrogate), **sizes)

                    (micro.weights_M * loss_M).sum().backward()
                grad_norms.append(optimizer_step(policy, optimizer, config.max_grad_norm))

        with run.clock("sync"):
            engine.load_weights(policy)

        # (10) The log-prob gap between engine and trainer, over all tokens.
        behaviour, gaps = TokenMeans(), TokenMeans()
        for micro in chain(*minibatches):
            behaviour.add(entropy=micro.entropy_M)
            gaps.add(logp_gap=(micro.old_logps_M - micro.engine_logps_M).abs())

        metrics = {"step": step, **metrics, **behaviour.means(), **gaps.means(), **updates.means()}
        metrics |= {"logp_gap_max": gaps.maximum("logp_gap"), **gradient_metrics(grad_norms)}
        metrics["learning_rate"] = parameters["lr"]
        last = run.last(step)
        if step % config.eval_every == 0 or step == config.steps:
            metrics["eval_accuracy"] = evaluate()

        # (11) Hard reset of the reference to the present policy, when validation has stalled or on schedule.
        penalty = config.kl_coefficient * abs(metrics["kl"])
        metrics["kl_loss_share"] = penalty / max(penalty + metrics.pop("policy_loss_size"), 1e-12)
        if "eval_accuracy" in metrics:
            state["stalled"] = (
                0 if metrics["eval_accuracy"] > state["best"] else state["stalled"] + 1
            )
            state["best"] = max(state["best"], metrics["eval_accuracy"])
        scheduled = config.reset_every > 0 and step % config.reset_every == 0
        if scheduled or 0 < config.reset_patience <= state["stalled"]:
            reference.load_full_state(dict(policy.full_state()))
            if config.reset_optimizer:
                optimizer.state.clear()
            state |= {"best": metrics.get("eval_accuracy", -1.0), "stalled": 0}
            metrics["event"] = "reset"
        memory = {"position": position} | {
            name: state[name] for name in ("keep_rate", "best", "stalled")
        }

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
