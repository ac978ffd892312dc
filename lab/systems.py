"""The eleven systems of JustRL's Table 1 as values for the flags of lab/table1.py.

A row says what is published of a system and what lab/table1.py has a flag for. A value that no
source states has "ours" behind it. docs/table1.md says row by row where the numbers come from, and
what of the system is not there.
"""

import json

DEEPSEEK = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
NEMOTRON = "nvidia/OpenMath-Nemotron-1.5B"
DEEPSCALER_DATA = "agentica-org/DeepScaleR-Preview-Dataset"
THINK = " Let's think step by step and output the final answer within \\boxed{}."

COLUMNS = ("EC", "THP", "TTP", "RKL", "LC", "AT", "RR", "DS", "ST")
TICKS = {  # Table 1, as the paper's own post prints it
    "still-3": "THP TTP RKL",
    "deepscaler": "EC LC ST",
    "fastcurl": "THP LC ST",
    "prorl-v1": "EC THP RKL LC DS ST",
    "e3": "EC THP LC DS ST",
    "polaris": "EC THP LC AT RR DS ST",
    "prorl-v2": "EC THP RKL LC DS ST",
    "questa": "DS ST",
    "brorl": "EC THP RKL LC DS ST",
    "justrl-deepseek": "EC",
    "justrl-nemotron": "EC",
}

OTHERS = dict(wrong_reward=0.0, clip_high=0.2)  # what all but JustRL begin with: 1 and 0, one clip
PRORL_V2 = dict(
    wrong_reward=0.0,
    data="BytedTsinghua-SIA/DAPO-Math-17k",
    instruction=THINK,
    prompts_per_step=512,
    samples_per_prompt=16,
    updates_per_step=8,
    temperature=1.2,  # version 1's
    max_response_tokens=8192,
    clip_high=0.28,
    advantage="reinforce++",
    kl_coefficient=1e-4,
    kl_estimator="k2",
    reset_every=300,  # "every 200 to 500 steps"
    dynamic_sampling="resample",
    truncated_scale=0.0,
    cosine_weight=0.1,  # ours, as are the bounds: "unpublished"
    cosine_on=100,
    cosine_off=500,
    icepop_low=0.5,
    icepop_high=5.0,
)

# Stages of FastCuRL: half a batch, and on its data L2.
HALF = dict(prompts_per_step=64, updates_per_step=1)
L2 = HALF | dict(max_response_tokens=16384, prompts_from=1 / 3, prompts_to=2 / 3)

ROWS = {
    "still-3": OTHERS
    | dict(
        data="RUC-AIBOX/STILL-3-Preview-RL-Data",
        instruction="",  # the bare question
        steps=1000,  # ours
        prompts_per_step=128,
        updates_per_step=2,
        learning_rate=2e-6,
        kl_coefficient=1e-3,
        reset_every=100,  # ours: "a fixed number of steps"
        eval_temperature=0.6,
        eval_top_p=0.95,
    ),
    "deepscaler": OTHERS
    | dict(
        data=DEEPSCALER_DATA,
        instruction=THINK,
        steps=580,
        prompts_per_step=128,
        updates_per_step=2,
        temperature=0.6,
        kl_coefficient=1e-3,
        entropy_coef=1e-3,
        stages=[
            dict(until=240, max_response_tokens=8192),
            dict(until=530, max_response_tokens=16384),
            dict(until=580, max_response_tokens=24576),
        ],
    ),
    "fastcurl": OTHERS
    | dict(
        data=DEEPSCALER_DATA,
        instruction=THINK,
        steps=2000,
        prompts_per_step=128,
        updates_per_step=2,
        temperature=0.6,
        kl_coefficient=1e-3,
        stages=[  # its data L1, L2, L3 as thirds by length of prompt; the last end is ours
            dict(until=160, max_response_tokens=8192, prompts_to=1 / 3),
            L2 | dict(until=750),
            HALF | dict(until=980, max_response_tokens=24576, prompts_from=2 / 3),
            L2 | dict(until=1560, samples_per_prompt=16),
            L2 | dict(until=2000, samples_per_prompt=16, kl_coefficient=0.0, entropy_coef=1e-6),
        ],
    ),
    "prorl-v1": dict(
        wrong_reward=0.0,
        data=DEEPSCALER_DATA,
        instruction=THINK,
        steps=2000,
        samples_per_prompt=16,
        temperature=1.2,
        warmup_steps=0,
        weight_decay=0.01,
        learning_rate=2e-6,
        clip_high=0.4,
        kl_coefficient=1e-4,
        reset_patience=5,  # ours: by hand, when validation stalls
        reset_optimizer=True,
        dynamic_sampling="resample",
        eval_every=20,
        eval_temperature=0.6,
        eval_top_p=0.95,
        stages=[  # runs 1 to 3, 4 and 5, 6 and 7, and 8; all ends but the last two are ours
            dict(until=750, max_response_tokens=8192),
            dict(until=1250, max_response_tokens=8192, truncated_scale=0.0),
            dict(until=1800, max_response_tokens=8192, samples_per_prompt=32),
            dict(until=2000, max_response_tokens=16384),
        ],
    ),
    "e3": dict(
        wrong_reward=0.0,
        model="Qwen/Qwen3-1.7B",
        data=DEEPSCALER_DATA,
        steps=400,  # ours, as are the ends of the stages
        prompts_per_step=128,  # ours
        samples_per_prompt=16,  # ours
        dynamic_sampling="resample",
        stages=[
            dict(until=200, max_response_tokens=8192),
            dict(until=400, max_response_tokens=16384, samples_per_prompt=32),
        ],
    ),
    "polaris": dict(
        wrong_reward=0.0,
        model="Qwen/Qwen3-1.7B",
        data="POLARIS-Project/Polaris-Dataset-53K",
        steps=800,  # ours, as is the end of the first stage
        prompts_per_step=128,
        updates_per_step=1,
        weight_decay=0.01,
        temperature=1.5,
        adaptive_temperature=True,
        rollout_rescue=True,
        dynamic_sampling="substitute",
        drop_above=0.9,
        stages=[
            dict(until=400, max_response_tokens=39936),
            dict(until=800, max_response_tokens=48128),
        ],
    ),
    "prorl-v2": PRORL_V2 | dict(model="nvidia/Nemotron-Research-Reasoning-Qwen-1.5B", steps=1000),
    "questa": OTHERS
    | dict(
        model=NEMOTRON,
        data="open-r1/OpenR1-Math-220k",
        steps=1000,  # ours, as is the end of the first stage
        prompts_per_step=128,
        samples_per_prompt=16,
        max_prompt_tokens=8192,  # with a hint
        max_response_tokens=24000,
        learning_rate=2e-5,
        dynamic_sampling="resample",
        tis_cap=5.0,
        stages=[dict(until=500, hint_share=0.5), dict(until=1000, hint_share=0.25)],
    ),
    "brorl": PRORL_V2
    | dict(
        model="nvidia/Nemotron-Research-Reasoning-Qwen-1.5B",
        steps=191,
        prompts_per_step=128,
        samples_per_prompt=512,
        max_response_tokens=16384,
        learning_rate=2.83e-6,  # 1e-6 times the root of the ratio of batches, 65,536 / 8,192
    ),
    "justrl-deepseek": dict(model=DEEPSEEK),
    "justrl-nemotron": dict(model=NEMOTRON, steps=3440),
}

STEPPED = ("reset_every", "cosine_on", "cosine_off")  # in steps, as "until" is
MOST_SAMPLES = 64  # a prompt, where a row is scaled down
# Of a row in the embedded world. Qwen3's temperature of 1.5 is far beyond the zone of its model,
# and what another base is to JustRL is its untuned model here.
TINY_ROWS = {
    "polaris": dict(temperature=1.1),
    "justrl-nemotron": dict(model="tiny:base"),
}


def preset(name: str) -> dict:
    """The flags of a row at the published scale; stages as the JSON that --stages takes."""
    return as_flags(ROWS[name])


def as_flags(values: dict) -> dict:
    stages = {"stages": json.dumps(values["stages"])} if values.get("stages") else {}
    return values | stages


def scaled_preset(name: str, scale: str, base: dict, steps: int) -> dict:
    """The flags of a row at the scale of --tiny or --small: the same algorithm, and in proportion

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
    limits = [values.get("max_response_tokens", 1) for values in (row, *stages)]
    longest = max(limits)
    samples = min(MOST_SAMPLES, row.get("samples_per_prompt", 8))
    prompts, first = base["prompts_per_step"] * 4 // samples, row.get("prompts_per_step", 256)

    def scaled(values: dict) -> dict:
        new = dict(values)
        for key in STEPPED:
            if new.get(key):
                new[key] = max(1, round(new[key] * steps / total))
        if "max_response_tokens" in new:
            share = new["max_response_tokens"] / longest
            new["max_response_tokens"] = round(base["max_response_tokens"] * share)
        if "prompts_per_step" in new:
            new["prompts_per_step"] = max(1, round(new["prompts_per_step"] * prompts / first))
        if "samples_per_prompt" in new:
            new["samples_per_prompt"] = min(MOST_SAMPLES, new["samples_per_prompt"])
        return new

    values = scaled(row) | base
    if {"samples_per_prompt", "prompts_per_step"} & row.keys():
        values |= dict(samples_per_prompt=samples, prompts_per_step=prompts)
    if scale == "tiny":
        values |= TINY_ROWS.get(name, {})
    if stages:
        ends, scaled_stages = 0, []
        for stage in stages:
            ends = max(ends + 1, round(stage["until"] * steps / total))
            scaled_stages.append(scaled(stage) | dict(until=ends))
        values["stages"] = scaled_stages
    return as_flags(values)
