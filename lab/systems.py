"""The eleven systems of JustRL's Table 1 as values for the flags of lab/table1.py.

A row says what is published of a system and what lab/table1.py has a flag for. The comment after a
value names its source: "script" is the authors' released code or its framework's default, "paper",
"post" and "card" are their texts, and "ours" is a value that no source states. JUSTRLS lists what a
row takes from JustRL because its sources are silent. docs/table1.md says what of a system is
missing.
"""

import json

DEEPSEEK = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
NEMOTRON = "nvidia/OpenMath-Nemotron-1.5B"
PRORL = "nvidia/Nemotron-Research-Reasoning-Qwen-1.5B"  # its revisions v1 and v2 are the versions
DEEPSCALER_DATA = "agentica-org/DeepScaleR-Preview-Dataset"
THINK = " Let's think step by step and output the final answer within \\boxed{}."

NO_DUAL_CLIP = 1e9
# veRL of early 2025 and OpenRLHF: no warm-up, a symmetric clip, no dual clip.
PLAIN = dict(warmup_steps=0, clip_high=0.2, dual_clip=NO_DUAL_CLIP)
DEEPSCALER = PLAIN | dict(  # FastCuRL's are the same
    model=DEEPSEEK,  # script
    data=DEEPSCALER_DATA,  # script
    instruction=THINK,  # script
    wrong_reward=0.0,  # script
    prompts_per_step=128,  # script
    samples_per_prompt=8,  # script
    updates_per_step=2,  # script
    temperature=0.6,  # script
    max_prompt_tokens=1024,  # script
    learning_rate=1e-6,  # script
    weight_decay=0.01,  # script
    kl_coefficient=1e-3,  # script
    entropy_coef=1e-3,  # script
)
PRORL_V2 = dict(
    wrong_reward=0.0,  # script (NeMo's and OpenRLHF's are named alike below)
    data="BytedTsinghua-SIA/DAPO-Math-17k",  # script
    instruction=THINK,  # paper, version 1's
    prompts_per_step=512,  # script
    samples_per_prompt=16,  # script
    updates_per_step=8,  # script: 1,024 responses each
    temperature=1.2,  # paper, version 1's
    max_prompt_tokens=1024,  # script
    max_response_tokens=8192,  # script
    clip_high=0.28,  # post; 0.27 in NeMo's and OpenRLHF's scripts
    dual_clip=NO_DUAL_CLIP,  # script: ratio_clip_c null
    advantage="reinforce++",  # script
    kl_coefficient=1e-4,  # script
    kl_estimator="k2",  # script
    reset_every=300,  # ours: "every 200 to 500 steps"
    dynamic_sampling="resample",  # script
    truncated_scale=0.0,  # script
    cosine_weight=0.1,  # ours, as are the bounds: "unpublished"
    cosine_on=100,  # post
    cosine_off=500,  # post
    icepop_low=0.5,  # script
    icepop_high=5.0,  # script
)

# Stages of FastCuRL: half a batch. L1 is the 62 % of shortest prompts, L3 the others, L2 all of it.
HALF = dict(prompts_per_step=64, updates_per_step=1)

ROWS = {
    "still-3": PLAIN  # script
    | dict(
        model=DEEPSEEK,  # script
        data="RUC-AIBOX/STILL-3-Preview-RL-Data",  # card
        instruction="",  # paper: the bare question
        wrong_reward=-1.0,  # script; -2 without a box
        steps=1000,  # ours
        prompts_per_step=128,  # script
        samples_per_prompt=8,  # script
        updates_per_step=2,  # script: 512 responses each
        temperature=1.0,  # script
        max_prompt_tokens=1024,  # script
        max_response_tokens=29000,  # script
        learning_rate=2e-6,  # script
        weight_decay=0.0,  # script
        kl_coefficient=1e-3,  # script, where the penalty is part of the reward
        reset_every=100,  # ours: "a fixed number of steps"
        eval_temperature=0.6,  # paper
        eval_top_p=0.95,  # paper
    ),
    "deepscaler": DEEPSCALER
    | dict(
        steps=1750,  # paper: JustRL's Table 4
        stages=[  # card: the context grows at steps 1,040 and 1,520; script: samples and limits
            dict(until=1040, max_response_tokens=8192),
            dict(until=1520, max_response_tokens=16384, samples_per_prompt=16),
            dict(until=1750, max_response_tokens=24576, samples_per_prompt=16),
        ],
    ),
    "fastcurl": DEEPSCALER  # script, and card: the same 40,315 problems
    | dict(
        steps=3260,  # card: 160 + 590 + 230 + 580, and version 2's last 1,700
        stages=[  # script
            dict(until=160, max_response_tokens=8192, prompts_to=0.62),
            HALF | dict(until=750, max_response_tokens=16384),
            HALF | dict(until=980, max_response_tokens=24576, prompts_from=0.62),
            HALF | dict(until=1560, max_response_tokens=16384, samples_per_prompt=16),
            HALF
            | dict(until=3260, max_response_tokens=16384, samples_per_prompt=16)
            | dict(kl_coefficient=0.0, entropy_coef=1e-6),
        ],
    ),
    "prorl-v1": dict(
        model=DEEPSEEK,  # paper
        wrong_reward=0.0,  # paper
        data=DEEPSCALER_DATA,  # paper
        instruction=THINK,  # paper
        steps=2000,  # card; the paper's figure 2 runs to about 2,500, JustRL's Table 4 has 2,450
        prompts_per_step=256,  # paper
        samples_per_prompt=16,  # paper
        updates_per_step=4,  # paper
        temperature=1.2,  # paper
        warmup_steps=0,  # script
        weight_decay=0.01,  # script
        learning_rate=2e-6,  # paper
        clip_high=0.4,  # paper
        dual_clip=NO_DUAL_CLIP,  # ours: veRL got its dual clip while this run was under way
        kl_coefficient=1e-4,  # paper: the technical report
        reset_patience=5,  # ours: by hand, when validation stalls
        reset_optimizer=True,  # paper
        dynamic_sampling="resample",  # paper
        eval_every=20,  # ours
        eval_temperature=0.6,  # paper
        eval_top_p=0.95,  # paper
        stages=[  # runs 1 to 3, 4 and 5, 6 and 7, and 8; all ends but the last two are ours
            dict(until=750, max_response_tokens=8192),
            dict(until=1250, max_response_tokens=8192, truncated_scale=0.0),
            dict(until=1800, max_response_tokens=8192, samples_per_prompt=32),
            dict(until=2000, max_response_tokens=16384),
        ],
    ),
    "e3": dict(  # paper: its Table 5, and veRL's defaults for the rest
        wrong_reward=0.0,  # script
        model="Qwen/Qwen3-1.7B",  # paper
        data=DEEPSCALER_DATA,  # paper; by difficulty there
        steps=400,  # ours, as are the ends of the stages
        learning_rate=1e-6,  # paper
        warmup_steps=0,  # script
        weight_decay=0.01,  # script
        dual_clip=3.0,  # script
        prompts_per_step=128,  # paper
        samples_per_prompt=8,  # paper: its Table 5; 16 in its text
        updates_per_step=4,  # paper
        temperature=0.6,  # paper
        clip_high=0.5,  # paper
        entropy_coef=0.002,  # paper
        kl_coefficient=1e-3,  # paper
        dynamic_sampling="resample",  # ours: Table 1 ticks it, its Table 5 does not name it
        stages=[  # paper
            dict(until=200, max_response_tokens=8192),
            dict(until=400, max_response_tokens=16384, prompts_per_step=64, updates_per_step=2)
            | dict(samples_per_prompt=32, clip_high=0.35, entropy_coef=0.001),
        ],
    ),
    "polaris": dict(
        wrong_reward=0.0,  # script
        model="Qwen/Qwen3-1.7B",  # post
        data="POLARIS-Project/Polaris-Dataset-53K",  # post
        steps=800,  # ours, as is the end of the first stage
        prompts_per_step=128,  # script
        samples_per_prompt=8,  # script
        updates_per_step=1,  # script
        learning_rate=1e-6,  # script
        warmup_steps=0,  # script
        weight_decay=0.01,  # script
        clip_high=0.28,  # script
        dual_clip=3.0,  # script
        temperature=1.5,  # post
        adaptive_temperature=True,  # post; 1.55 in the second stage's script
        rollout_rescue=True,  # post
        dynamic_sampling="substitute",  # script
        drop_above=0.9,  # post
        stages=[  # script
            dict(until=400, max_response_tokens=39936),
            dict(until=800, max_response_tokens=48128),
        ],
    ),
    "prorl-v2": PRORL_V2 | dict(model=f"{PRORL}@v1", steps=1000, learning_rate=1e-6),  # script
    "questa": dict(
        model=NEMOTRON,  # script
        data="open-r1/OpenR1-Math-220k",  # paper
        steps=2000,  # paper: JustRL's Table 6; the end of the first stage is ours
        wrong_reward=0.0,  # script
        prompts_per_step=128,  # script
        samples_per_prompt=16,  # script
        updates_per_step=1,  # script
        temperature=1.0,  # script
        max_prompt_tokens=4096,  # script; 2,048 in the second stage
        max_response_tokens=24000,  # script
        learning_rate=2e-5,  # script
        warmup_steps=2,  # script: a thousandth of the steps
        weight_decay=0.05,  # script
        clip_high=0.2,  # script
        dual_clip=NO_DUAL_CLIP,  # script
        advantage="tokens",  # script: adv_norm over the batch, no group baseline
        dynamic_sampling="resample",  # script: success rates in (0.05, 0.95), of 16 all mixed ones
        icepop_low=1e-9,  # script: above 5 a token is masked, below nothing is
        icepop_high=5.0,  # script
        stages=[dict(until=1000, hint_share=0.5), dict(until=2000, hint_share=0.25)],  # script
    ),
    "brorl": PRORL_V2
    | dict(
        model=f"{PRORL}@v2",  # paper
        steps=191,  # paper
        prompts_per_step=128,  # paper
        samples_per_prompt=512,  # paper
        max_response_tokens=16384,  # paper
        learning_rate=2.83e-6,  # paper: 1e-6 times the root of the ratio of batches, 65,536 / 8,192
    ),
    "justrl-deepseek": dict(model=DEEPSEEK),
    "justrl-nemotron": dict(model=NEMOTRON, steps=3440),
}

# What a row takes from JustRL because its sources are silent. All take max_grad_norm and clip_low.
JUSTRLS = {
    "prorl-v1": ("max_prompt_tokens",),
    "e3": ("max_prompt_tokens", "instruction"),
    "polaris": ("max_prompt_tokens", "instruction"),
    "prorl-v2": ("warmup_steps", "weight_decay"),
    "questa": ("instruction",),
    "brorl": ("warmup_steps", "weight_decay"),
}

MOST_SAMPLES = 64  # a prompt, where a row is scaled down
# Changes of a row in the embedded world. The temperature of 1.5, made for Qwen3, is far too high
# for the tiny model. JustRL's second run starts from another base model, here from tiny:base.
TINY_ROWS = {
    "polaris": dict(temperature=1.1),
    "justrl-nemotron": dict(model="tiny:base"),
}


def as_flags(values: dict) -> dict:
    """A row as flags; its stages become the JSON that --stages takes."""
    stages = values.get("stages")
    return values | {"stages": json.dumps(stages) if stages else ""}


def scaled_preset(name: str, scale: str, base: dict, steps: int) -> dict:
    """The flags of a row at the scale of --tiny or --small. The algorithm stays; these shrink:

    - lengths: the row's longest limit becomes the scale's;
    - ends of stages, resets and cycles: the row's steps become `steps`;
    - the learning rate becomes the scale's;
    - prompts: the row's first batch becomes half as many responses as JustRL's at that scale, and a
      group has at most 64. A row that names no batch (JustRL's two) keeps that of the scale.

    scale: "tiny" or "small", with its flags in base.
    """
    row = ROWS[name]
    stages = row.get("stages", [])
    total = row.get("steps", steps)
    longest = max(values.get("max_response_tokens", 1) for values in (row, *stages))
    samples = min(MOST_SAMPLES, row.get("samples_per_prompt", 8))
    prompts = base["prompts_per_step"] * 4 // samples
    ratios = dict.fromkeys(("reset_every", "cosine_on", "cosine_off"), (steps, total))
    ratios["max_response_tokens"] = base["max_response_tokens"], longest
    ratios["prompts_per_step"] = prompts, row.get("prompts_per_step", 256)

    def scaled(values: dict) -> dict:
        new = dict(values)
        for key, (here, there) in ratios.items():
            if values.get(key):  # 0 turns something off, at any scale
                new[key] = max(1, round(values[key] * here / there))
        if "samples_per_prompt" in new:
            new["samples_per_prompt"] = min(MOST_SAMPLES, new["samples_per_prompt"])
        return new

    values = scaled(row) | base
    if {"samples_per_prompt", "prompts_per_step"} & row.keys():
        values |= dict(samples_per_prompt=samples, prompts_per_step=prompts)
    if scale == "tiny":
        values |= TINY_ROWS.get(name, {})
    until, scaled_stages = 0, []
    for stage in stages:
        until = max(until + 1, round(stage["until"] * steps / total))
        scaled_stages.append(scaled(stage) | dict(until=until))
    return as_flags(values | dict(stages=scaled_stages))
