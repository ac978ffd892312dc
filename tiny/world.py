"""The problems of the embedded worlds: plain dicts, generated, the same on every machine.

    problems("train", "mixed")       arithmetic chains such as 3+5-2=?     (tiny/arithmetic.py)
    problems("eval", "compose-12")   twelve opaque functions on 5 digits   (tiny/compose.py)

Nothing here needs torch or any file outside this folder.
"""

from tiny import arithmetic, compose


def problems(split: str, level: str) -> list[dict]:
    """The problems of a split ("train" | "eval") and a level: dicts of problem, answer and task.

    Always the same list in the same order. The caller may change it. Raises ValueError for an
    unknown name, and for "train" with a level that is never trained on.
    """
    world = compose if level.partition("-")[0] == "compose" else arithmetic
    if split not in ("train", "eval"):
        raise ValueError(f'no "{split}/{level}" in the tiny world: use train or eval')
    return [dict(problem) for problem in world.problems(split, level)]
