"""The panels of a run's curves: one list for tools.plot, tools.view and the lab."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from trainer.errors import Refused


class Panel(NamedTuple):
    """One panel.

    metrics: {metric: its name, where a panel has several}. The first one that the runs have is
    drawn bold, the others fine.
    """

    title: str
    unit: str
    metrics: dict[str, str]
    logarithmic: bool = False


PANELS = [
    Panel("Reward", "mean of answers", {"reward": ""}),
    Panel("Held-out accuracy", "share solved", {"eval_accuracy": ""}),
    Panel("Response length", "tokens", {"length": ""}),
    Panel("Truncated answers", "share", {"truncated": ""}),
    Panel("Entropy", "nats per token", {"entropy": ""}),
    Panel("Log-prob gap", "nats per token", {"logp_gap": ""}, logarithmic=True),
    Panel(
        "Clipped tokens",
        "share of tokens",
        {"clip_fraction_high": "above", "clip_fraction_low": "below"},
    ),
    Panel(
        "KL divergence",
        "nats per token",
        {"kl": "to the reference", "approx_kl": "of the update"},
    ),
    Panel("Gradient norm", "before clipping", {"grad_norm": ""}),
]
# Drawn only where they are asked for by name.
ON_DEMAND = [
    Panel("Spread of rewards", "std inside a group", {"reward_std": ""}),
    Panel("KL's share of the loss", "share", {"kl_loss_share": ""}, logarithmic=True),
]
# What the trainer and ProRL log besides. Any other number is the user's own and gets a panel.
LOGGED = {
    *("step", "accuracy", "tokens", "logp_gap_max", "skipped_updates", "learning_rate"),
    *("sampled_groups", "trained_groups", "rounds"),
}
PREFIXES = ("seconds_", "trained_")  # of more such names


def panel_of(metric: str) -> Panel:
    """The panel that shows a metric; a plain one for a metric of the user's own."""
    known = (panel for panel in (*PANELS, *ON_DEMAND) if metric in panel.metrics)
    return next(known, Panel(metric, "", {metric: ""}))


def choose(names: Iterable[str], wanted: list[str] | None = None) -> list[Panel]:
    """The panels to draw of runs that have these numbers.

    wanted: metrics. Without it: the panels of PANELS, and one for each number of the user's own.
    Raises Refused for a wanted metric that is not among the names.
    """
    names = list(dict.fromkeys(names))
    if missing := [metric for metric in wanted or [] if metric not in names]:
        raise Refused(f"no numbers named {missing[0]}; there are {', '.join(sorted(names))}")
    if wanted:
        return [panel_of(metric) for metric in wanted]
    own = [name for name in names if name not in LOGGED and not name.startswith(PREFIXES)]
    panels = PANELS + [panel for panel in map(panel_of, own) if panel not in PANELS + ON_DEMAND]
    return [panel for panel in panels if set(names) & panel.metrics.keys()]


def is_number(value) -> bool:
    """A finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
