"""`--reward FILE.py:FUNCTION`: your own reward instead of the recipe's. See docs/own-reward.md.

    def my_reward(texts: list[str], answers: list[str], rows: list[Problem]) -> list[float]

texts: the responses. answers: the gold of each. rows: the problem of each. The function returns one
finite number for each response.
"""

import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from trainer.data import Problem, Rollout
from trainer.errors import Refused, did_you_mean


def load_reward(name: str) -> Callable:
    """The function that FILE.py:FUNCTION names, of the file as it is now.

    Raises Refused if there is no such file or function, or if the file fails when it is read.
    """
    path, _, function = name.rpartition(":")
    file = Path(path).expanduser()
    if file.suffix != ".py" or not file.is_file():
        raise Refused(f"--reward {name} names no function of a file: give FILE.py:FUNCTION")
    with _blamed_on(name, file):
        module = _import(file, file.read_bytes())
    found = getattr(module, function, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value)]
        hint = did_you_mean(function, known)
        raise Refused(f"--reward {name}: {file} defines no function {function!r}{hint}")
    try:
        inspect.signature(found).bind("texts", "answers", "rows")
    except TypeError as error:
        raise Refused(
            f"--reward {name}: {function} must take three arguments, texts, answers and rows "
            f"({error})"
        ) from error
    return found


@cache
def _import(file, source):
    """The file as a module of its name, as if it were the script: its folder is on the path.

    So dataclasses, pickles, process pools and imports of files next to it work. It is read again
    when its source has changed, which happens in a notebook.
    """
    folder, known = str(file.resolve().parent), sys.modules.get(file.stem)
    if folder not in sys.path:
        sys.path.append(folder)
    taken = known and Path(getattr(known, "__file__", None) or "").resolve() != file.resolve()
    name = f"own_{file.stem}" if taken else file.stem  # of one's own rewards.py, say
    spec = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        exec(compile(source, file, "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def own_reward(name: str) -> Callable:
    """The function that FILE.py:FUNCTION names, to be called as a recipe calls its reward.

    Its values are the rewards, and cut to 0..1 they are the verdicts. Raises Refused if the
    function fails, or returns anything but one finite number for each response.
    """
    function, file = load_reward(name), Path(name.rpartition(":")[0]).expanduser()

    def reward(rollouts: list[Rollout], problems: list[Problem], _config) -> list:
        with _blamed_on(name, file):
            returned = function([r.text for r in rollouts], [p.answer for p in problems], problems)
            values = [float(value) for value in returned]
        if len(values) != len(rollouts):
            raise Refused(
                f"--reward {name} returned {len(values)} numbers for {len(rollouts)} responses"
            )
        for rollout, value in zip(rollouts, values, strict=True):
            if not math.isfinite(value):
                raise Refused(f"--reward {name} returned {value} for {rollout.text!r}")
        return [(min(1.0, max(0.0, value)), value) for value in values]

    return reward


@contextmanager
def _blamed_on(name, file):
    """Turn whatever goes wrong in a user's file into Refused, with the line of the file."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
        lines = lines or [error.lineno] if isinstance(error, SyntaxError) else lines
        place = f", line {lines[-1]}" if lines else ""
        raise Refused(f"--reward {name}: {type(error).__name__}: {error}{place}") from error
