"""`--tiny` and `--small`: they change the scale of every recipe, never the algorithm.

A recipe adds the few values of its own flags. In Python, with two values changed:

    justrl.main(justrl.Config(**justrl.TINY | {"steps": 3, "out": "runs/mine"}))
"""

# The embedded world: a minute or two on one core of a laptop.
TINY = dict(
    tiny=True,
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
    eval_every=10,
    eval_samples=4,
    eval_max_tokens=64,
    tokens_per_micro_batch=8192,
    gradient_checkpointing=False,
    save_every=20,
)

# A real model on one 24 GB GPU, an estimated two hours. It starts from a base model, which leaves
# much to gain: public runs of this kind go from about 15 % of MATH-500 to 45 % within 50 steps
# (rasbt/reasoning-from-scratch, chapter 6).
SMALL = dict(
    small=True,
    model="Qwen/Qwen3-0.6B-Base",
    data="EleutherAI/hendrycks_math",  # MATH's 7,500 training problems
    eval_data="math500",
    decontaminate=True,
    steps=100,
    prompts_per_step=32,
    # Not tuned: no GPU was at hand. Runs with float32 master weights use 1e-6 for 1,024 to 2,048
    # responses a step (JustRL, DeepScaleR). Runs with bfloat16 weights need up to 1e-5, because
    # these round small updates away.
    learning_rate=3e-6,
    max_prompt_tokens=512,
    max_response_tokens=1024,
    eval_every=20,
    eval_samples=1,
    eval_max_tokens=1024,
    engine_memory=0.5,
    tokens_per_micro_batch=16384,
)
