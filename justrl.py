"""JustRL (arXiv 2512.16649): plain GRPO with clip-higher, one stage, fixed hyperparameters.

    python justrl.py --tiny                         the embedded world, 1-2 minutes on a laptop
    python justrl.py --small                        a real model on one 24 GB GPU, about two hours
    python justrl.py                                the paper's run on one GPU
    torchrun --nproc-per-node 8 justrl.py           on eight
    python justrl.py --model DIR --data TRAIN.jsonl --eval_data TEST.jsonl      your own problems

The algorithm. The same numbers mark the code below:

    for each step:
        (5) sample 256 problems, 8 answers each, from the current policy
        (4) reward +1 if the last \\boxed{} is the answer to the letter, else -1
        (6) advantage A = (reward - group mean) / (group std + 1e-6)
        (7) split into 4 mini-batches; each of a mini-batch's T tokens weighs 1/T in its loss
        (8) old = log pi(token) of the policy that sampled
        for each mini-batch:
            (9) r = exp(log pi - old)
                loss = sum of weight * max(-r A, -clip(r, 0.8, 1.28) A), at most 10 |A| where A < 0
                one AdamW step
        push the new weights to the sampler

Mirrored: the paper's section 3 and the hyperparameters of the authors' released training script.
The paper has no value network, reference model, KL, entropy bonus, dynamic sampling, stages or
length control. Its two ablations, which hurt, are --overlong_penalty and --robust_verifier.

Where this deviates, and why:
- The loss is the mean over all tokens of the global mini-batch. The authors' code averages inside
  each micro-batch and weighs it by its number of sequences, so there a token's weight depends a
  little on how the sequences happen to be packed.
- The public data repeats each of its 17.9k problems 100 times. We keep one copy. The authors' run
  most likely kept all, so one epoch of theirs is a hundred of ours.
- Held-out answers are judged as in training. The authors' script uses math-verify for them.
- Mini-batches are cut in the order of sampling. The authors' code first deals sequences to its 32
  ranks so that their lengths balance.

Shape suffixes: _P prompts, _G samples of a group, _B rows of a batch, _R response positions, _T
sequence positions, _M response tokens end to end.
"""

from dataclasses import dataclass
from itertools import chain
from statistics import fmean

import torch

import losses
from rewards import overlong_penalty, robust_many, strict_box
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
from trainer.run.flags import Flags, parse
from trainer.run.launch import launch, model_folder
from trainer.run.metrics import step_metrics
from trainer.run.own_reward import own_reward
from trainer.run.run import Run
from trainer.sampler.engine import make_engine, request_seed, self_check
from trainer.sources.load import load_problems


# (0) Hyperparameters, at the paper's values. "Table 2" is the paper's, "script" the authors'.
@dataclass
class Config(Flags):
    model: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"  # hub id or local folder
    data: str = "BytedTsinghua-SIA/DAPO-Math-17k"  # training problems: hub id or local file
    eval_data: str = "aime24,aime25,amc23"  # held-out problems
    # appended to each problem (script)
    instruction: str = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    seed: int = 1  # of data order and sampling (script)

    steps: int = 4380  # rollout steps (section 4: the reported checkpoint)
    prompts_per_step: int = 256  # prompts a step (Table 2)
    samples_per_prompt: int = 8  # responses to each prompt: the group (Table 2)
    updates_per_step: int = 4  # optimizer updates a step: mini-batches of 64 prompts (script)
    temperature: float = 1.0  # of sampling; no top-p, no top-k (Table 2)
    max_prompt_tokens: int = 1024  # longer prompts are dropped (Table 2)
    max_response_tokens: int = 15360  # longer responses are cut (Table 2)

    learning_rate: float = 1e-6  # AdamW, constant (Table 2)
    warmup_steps: int = 10  # linear, in rollout steps; the first step trains at rate 0 (script)
    weight_decay: float = 0.1  # AdamW (script)
    max_grad_norm: float = 1.0  # global gradient norm (script)
    clip_low: float = 0.2  # the ratio is clipped below at 1 - 0.2 (Table 2)
    clip_high: float = 0.28  # the ratio is clipped above at 1 + 0.28: clip-higher (Table 2)
    dual_clip: float = 10.0  # the loss of a token with A < 0 is at most 10 |A| (script)

    overlong_penalty: bool = False  # ablation (section 4.4): DAPO's soft penalty on long responses
    overlong_buffer: int = 4096  # tokens before the limit in which the penalty grows from 0 to -1
    robust_verifier: bool = False  # ablation (section 4.4): equal in meaning, not to the letter

    eval_every: int = 50  # steps between evaluations (script); 0: never
    eval_samples: int = 32  # responses to each held-out problem (script)
    eval_temperature: float = 0.7  # of evaluations (script)
    eval_top_p: float = 0.9  # of evaluations (script)
    eval_max_tokens: int = 31744  # of evaluations (script)

    def fault(self) -> str | None:
        if self.overlong_penalty and self.overlong_buffer > self.max_response_tokens:
            return "--overlong_buffer must be at most --max_response_tokens"
        return super().fault()


# Scale alone changes, never the algorithm.
TINY = presets.TINY | dict(overlong_buffer=24)
SMALL = presets.SMALL | dict(overlong_buffer=256)
RECIPE = "justrl"  # the name of its run folders


# (4) Reward: +1 or -1, is the last box the answer to the letter? Also for truncated responses.
def reward(rollouts: list[Rollout], problems: list[Problem], config: Config) -> list:
    """(verdict from 0 to 1, reward to train on) of each rollout."""
    texts, answers = [r.text for r in rollouts], [p.answer for p in problems]
    verdicts = map(strict_box, texts, answers)
    if config.robust_verifier:
        verdicts = robust_many(texts, answers)
    scores = []
    for rollout, verdict in zip(rollouts, verdicts, strict=True):
        value = verdict
        if config.overlong_penalty:
            length, limit = len(rollout.response_ids), config.max_response_tokens
            value += overlong_penalty(length, limit, config.overlong_buffer)
        scores.append((float(verdict > 0), value))
    return scores


def main(config: Config) -> None:
    device = start_ranks(one_thread=config.tiny)
    model_dir = model_folder(config.model)
    tokenizer = load_tokenizer(model_dir)
    score = own_reward(config.reward) if config.reward else reward

    # (1) Prompt: the instruction follows the problem, in the user's turn.
    problems = load_problems(config.data)
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

        # (6) Advantage: group mean, group std.
        advantages_P_G = losses.advantages(rewards_P_G, center="group", scale="group")

        advantages, minibatches = advantages_P_G.flatten(), []
        for rows in equal_slices(len(rollouts), config.updates_per_step):
            # (7) A token's weight in the loss: the mean over all tokens of the mini-batch.
            weights_B_R = losses.token_weights(response_mask(rollouts[rows]), "token")

            minibatches.append(policy.cut(rollouts[rows], advantages[rows], weights_B_R))

        # (8) Old log-probs, of the policy that sampled (the first mini-batch's come with (9)).
        with torch.no_grad():
            for micro in chain(*minibatches[1:]):
                micro.old_logps_M, micro.entropy_M = policy(micro, config.temperature)

        run.phase("update")
        set_learning_rate(optimizer, config.learning_rate, step, config.warmup_steps)
        grad_norms = []
        for minibatch in minibatches:
            for micro in minibatch:
                logps_M, entropy_M = policy(micro, config.temperature)
                micro.new_logps_M = logps_M.detach()
                if micro.old_logps_M is None:  # no update yet: this is the policy that sampled
                    micro.old_logps_M, micro.entropy_M = logps_M.detach(), entropy_M.detach()

                # (9) Loss: clip-higher with dual clip. No KL penalty, no entropy bonus.
                clip = low, high, dual = config.clip_low, config.clip_high, config.dual_clip
                loss_M = losses.clipped_policy_loss(
                    logps_M, micro.old_logps_M, micro.advantages_M, low, high, dual
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
