"""Show groups in a terminal."""

import re
import textwrap

from tools.view.folder import Group, Source
from trainer.errors import Refused

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
LONGEST = 1200  # characters of an answer; a longer one is shown without its middle


def printable(text: str) -> str:
    """Text that cannot move the cursor, colour the screen or turn its direction."""
    return CONTROL.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


def shorten(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"


def show(source: Source, width: int) -> str:
    """The groups of a run's newest loaded step, or all of an evaluation, as text.

    Raises Refused if there are none.
    """
    groups = source.groups
    if not groups:
        raise Refused(
            f"{source.name} has no rollouts of these steps: a run keeps some of each step, unless "
            "it was started with --keep_rollouts 0"
        )
    if source.kind == "run":
        newest = max(group.step for group in groups)
        groups = [group for group in groups if group.step == newest]
    about = ", ".join(f"{name} {value}" for name, value in source.about.items())
    lines = [printable(f"{source.name}: {about}")]
    for group in groups:
        lines += ["", *_group_lines(source, group, width)]
    return "\n".join(lines)


def _group_lines(source: Source, group: Group, width: int) -> list[str]:
    where = f"step {group.step}, {group.kind.replace('_', '-')} problem {group.place}"
    if source.kind == "evaluation":
        where = f"{source.labels[group.step]} problem {group.place}"
    lines = [f"=== {printable(where)}: {group.solved:.0%} solved, answer {printable(group.gold)}"]
    lines += _wrapped(group.problem.strip(), "    ", width)
    for answer in group.answers:
        facts = [f"#{answer.sample}"]
        facts += [] if answer.reward is None else [f"reward {answer.reward:+.2f}"]
        facts += [] if answer.advantage is None else [f"advantage {answer.advantage:+.2f}"]
        facts += [f"{answer.length} tokens"] + ["truncated"] * answer.truncated
        facts += [f"strict {_verdict(answer.strict)}, robust {_verdict(answer.robust)}"]
        lines += [f"--- {', '.join(facts)}", *_wrapped(shorten(answer.text.strip()), "    ", width)]
    return lines


def _verdict(right: bool) -> str:
    return "right" if right else "wrong"


def _wrapped(text: str, margin: str, width: int) -> list[str]:
    lines = [
        piece
        for line in printable(text).split("\n")
        for piece in textwrap.wrap(line, max(20, width - len(margin))) or [""]
    ]
    return [margin + line for line in lines]
