"""Find the flags of a command line that have no effect together with its other flags."""


def requires(flag: str):
    """The entry of NEEDS for a flag without effect while another one is 0, off or empty."""
    return lambda config: bool(getattr(config, flag, True)), f"without --{flag}"


# {flag: (a test whether it has an effect, the reason if it has none)}. A recipe adds those of its
# own flags, see Config.needs.
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

    Values that turn something off (0, false) are not reported. With --stages nothing is, because a
    stage may bring what a flag needs.
    """
    if getattr(config, "stages", ""):
        return []
    given = {word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")}
    return [
        f"--{name} has no effect {why}"
        for name, (holds, why) in config.needs.items()
        if name in given and getattr(config, name, False) and not holds(config)
    ]
