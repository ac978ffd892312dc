"""Flags that were given and have no effect beside the others: the command line says so."""


def requires(flag: str):
    """What a flag needs that does nothing while another one is 0, off or empty."""
    return lambda config: bool(getattr(config, flag)), f"without --{flag}"


# {flag: (what must hold for it to act, why it does not act else)}. A recipe adds those of its own
# flags, see Config.needs.
NEEDS = {
    **dict.fromkeys(
        ("clip_low", "clip_high", "dual_clip"),
        (
            lambda config: config.updates_per_step > 1,
            "with one update a step, where every ratio is 1: give --updates_per_step 4, say",
        ),
    ),
    **dict.fromkeys(
        ("kl_estimator", "reset_every", "reset_patience", "reset_optimizer"),
        requires("kl_coefficient"),
    ),
    "overlong_buffer": requires("overlong_penalty"),
    **dict.fromkeys(
        ("eval_samples", "eval_temperature", "eval_top_p", "eval_max_tokens"),
        requires("eval_every"),
    ),
}


def inert_flags(config, words: list[str]) -> list[str]:
    """One sentence for each flag among the words of a command line that has no effect.

    A value that turns something off (0, false) is none. A run in --stages is not looked at: a stage
    may bring what a flag needs.
    """
    if getattr(config, "stages", ""):
        return []
    given = {word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")}
    return [
        f"--{name} has no effect {why}"
        for name, (holds, why) in config.needs.items()
        if name in given and getattr(config, name, False) and not holds(config)
    ]
