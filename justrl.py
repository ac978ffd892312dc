"""JustRL (arXiv 2512.16649): plain GRPO with clip-higher, one stage, fixed hyperparameters, nothing else.

    python justrl.py --tiny                                        the embedded world, a laptop CPU, a few minutes
    python justrl.py                                               the paper's run on one GPU
    torchrun --nproc-per-node 8 justrl.py                          on eight
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-endpoint HOST:29500 --rdzv-backend c10d justrl.py
    python justrl.py --model DIR --data FILE.jsonl --eval_data FILE.jsonl      your own model and problems

Mirrored: the paper's section 3 and the hyperparameters of the authors' released training script.
Left out because the paper leaves it out: value network, reference model, KL, entropy bonus, dynamic sampling, stages,
length control. Its two ablations, which hurt, are --overlong_penalty and --robust_verifier.

Where this deviates, and why:
- The loss is the mean over all tokens of the global mini-batch. The authors' code averages inside each micro-batch and
  then over micro-batches, so there the weight of a token depends on how sequences happen to be packed.
- The public data repeats each of its 17.4k problems 100 times; they are collapsed. The authors' run most likely kept
  the copies, which only means that its one epoch of 1.8M rows is our hundred of 17.4k.
- Held-out answers are judged as in training; the authors' script has math-verify judge them. evaluate.py does both.
- Mini-batches are cut in the order of sampling; the authors' code first shuffles sequences between its 32 ranks.
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean

import torch
from transformers.hf_argparser import HfArg

import losses
from rewards import overlong_penalty, robust_many, strict_box
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


# (0) Every hyperparameter, at the paper's value. "Table 2" is the paper's, "script" the authors' released one.
@dataclass
class Config:
    tiny: bool = HfArg(
        default=False, help="run in the embedded world: only scale changes, never the algorithm"
    )
    model: str = HfArg(
        default="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", help="hub id or local folder"
    )
    data: str = HfArg(
        default="BytedTsinghua-SIA/DAPO-Math-17k", help="training problems: hub id or local file"
    )
    eval_data: str = HfArg(
        default="math-ai/aime24,math-ai/aime25,math-ai/amc23", help="held-out problems"
    )
    instruction: str = HfArg(
        default="\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        help="appended to each problem (script)",
    )
    out: str = HfArg(default="", help="run folder; default runs/justrl-seedN")
    seed: int = HfArg(default=1, help="of data order and sampling (script)")
    engine: str = HfArg(
        default="auto", help="vllm, transformers, or auto: vllm where there is a GPU"
    )

    steps: int = HfArg(default=4380, help="rollout steps (section 4: the reported checkpoint)")
    prompts_per_step: int = HfArg(default=256, help="prompts a step (Table 2)")
    samples_per_prompt: int = HfArg(default=8, help="responses to each: the group (Table 2)")
    updates_per_step: int = HfArg(
        default=4, help="optimizer updates a step: mini-batches of 64 prompts (script)"
    )
    temperature: float = HfArg(default=1.0, help="of sampling; no top-p, no top-k (Table 2)")
    max_prompt_tokens: int = HfArg(default=1024, help="longer prompts are dropped (Table 2)")
    max_response_tokens: int = HfArg(default=15360, help="longer responses are cut (Table 2)")

    learning_rate: float = HfArg(default=1e-6, help="AdamW, constant (Table 2)")
    warmup_steps: int = HfArg(
        default=10, help="linear from 0, in rollout steps: the first trains with lr 0 (script)"
    )
    weight_decay: float = HfArg(default=0.1, help="AdamW (script)")
    max_grad_norm: float = HfArg(default=1.0, help="global gradient norm (script)")
    clip_low: float = HfArg(default=0.2, help="ratio clipped below at 1 - 0.2 (Table 2)")
    clip_high: float = HfArg(default=0.28, help="and above at 1 + 0.28: clip-higher (Table 2)")
    dual_clip: float = HfArg(default=10.0, help="loss of a bad token at most 10 |A| (script)")

    overlong_penalty: bool = HfArg(
        default=False, help="ablation (section 4.4): DAPO's soft penalty on long answers"
    )
    overlong_buffer: int = HfArg(
        default=4096, help="tokens before the limit over which it grows from 0 to -1"
    )
    robust_verifier: bool = HfArg(
        default=False, help="ablation (section 4.4): equal in meaning, not to the letter"
    )
    tis_cap: float = HfArg(
        default=0.0, help="truncated importance sampling against engine mismatch; 0 = off (paper)"
    )

    eval_every: int = HfArg(default=50, help="steps between evaluations (script)")
    eval_samples: int = HfArg(default=32, help="responses to each held-out problem (script)")
    eval_temperature: float = HfArg(default=0.7, help="(script)")
    eval_top_p: float = HfArg(default=0.9, help="(script)")
    eval_max_tokens: int = HfArg(default=31744, help="(script)")

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
    prompts_per_step=32,
    learning_rate=1e-4,
    max_prompt_tokens=48,
    max_response_tokens=64,
    overlong_buffer=24,
    eval_every=10,
    eval_samples=4,
    eval_max_tokens=64,
    tokens_per_micro_batch=8192,
    gradient_checkpointing=False,
    save_every=20,
)
RECIPE, HOW_LONG = (
    "justrl",
    {True: "about 2 minutes on 2 cores", False: "the paper's run took 15 days on 32 A800 GPUs"},
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

    # (1) Prompt: the instruction stands in the user's turn, after the problem.
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

    # (3) No reference policy: there is no KL penalty.
    reference = None
    state = run.resume(policy, optimizer, reference)

    position = state.get("position", 0)
    engine.load_weights(policy)
    self_check(engine, policy, prompts[0])

    # (4) Reward: +1 or -1, is the last box the answer to the letter? Truncated answers are scored like any other.
    def score(rollouts, problems) -> None:
        texts, answers = (
            [rollout.text for rollout in rollouts],
            [problem.answer for problem in problems],
        )
        verdicts = (
            robust_many(texts, answers)
            if config.robust_verifier
            else map(strict_box, texts, answers)
        )
        for rollout, verdict in zip(rollouts, verdicts, strict=True):
            rollout.right, rollout.reward = float(verdict > 0), verdict
            if config.overlong_penalty:
                length = len(rollout.response_ids)
                rollout.reward += overlong_penalty(
                    length, config.max_response_tokens, config.overlong_buffer
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
        # (5) Sample a batch. No group is dropped or replaced, whatever its rewards.
        batch = order[position : position + config.prompts_per_step]
        position += len(batch)
        seeds_P = [request_seed(config.seed, step, p) for p in range(len(batch))]
        sampling = Sampling(config.max_response_tokens, config.temperature)
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

                    # (9) Loss: clip-higher with dual clip. No KL penalty, no entropy bonus.
                    loss_M = losses.clipped_policy_loss(*surrogate, config.dual_clip)
                    if config.tis_cap:
                        loss_M *= losses.truncated_importance(
                            micro.old_logps_M, micro.engine_logps_M, config.tis_cap
                        )
                    updates.add(**losses.update_diagnostics(*surrogate))

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
