"""A run folder belongs to one run: to one process at a time, one set of flags, and one code.

OUT/config.json has the flags and digests of the code. A command with others is refused.
"""

import ast
import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist
from tqdm import tqdm

import losses
import rewards
from trainer.errors import Refused
from trainer.run import files
from trainer.run.flags import FREE

LOCKS: dict[Path, int] = {}  # held by this process: {run folder: file descriptor}


# --- one process ---


def lock_folder(out: Path) -> None:
    """Make the folder if there is none, and let no other process write in it.

    The lock ends with the process, or with `unlock`. Raises Refused when another process has it.
    """
    files.make_folder(out)
    if not os.access(out, os.W_OK):
        raise Refused(f"cannot write in {out}; give another --out, or change its permissions")
    unlock(out)  # perhaps held by a run of this process that failed
    lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Refused(
            f"another process is training in {out}: wait until it ends, or give another --out"
        ) from error
    except OSError:
        tqdm.write(f"{out} is on a file system without locks: start no second run there")
    LOCKS[out.resolve()] = lock


def unlock(out: Path) -> None:
    if lock := LOCKS.pop(out.resolve(), None):
        os.close(lock)


# --- one set of flags, one code ---


def claim(out: Path, config: dict, code: dict[str, str]) -> None:
    """Make the folder this run's, or check that it is already.

    config: the flags and the recipe's name. code: {file: digest}. A run without metrics and
    checkpoints has not begun, so any other may take its folder. Raises Refused if the folder has a
    run with other settings or code, and names the difference, or if its files are not a run's.
    """
    path, before = out / "config.json", {}
    begun = any((out / name).exists() for name in ("metrics.jsonl", "checkpoints"))
    if begun or any((out / name).exists() for name in ("config.json", "rollouts", "curves.png")):
        with suppress(Refused):
            before = files.read_json(path)
        if "recipe" not in before:
            raise Refused(f"{out} holds files that no run wrote, see {path}: give another --out")
    before = before if begun else dict(config)
    code_before = before.pop("code", None)
    files.check_same(out, "a run", before, config, FREE)
    if not (code_before and files.checkpoints(out)):  # no checkpoint of other code
        if dist.get_rank() == 0:
            files.write_json(path, before | {"code": code})
    elif edited := files.changed(code_before, code):
        raise Refused(
            f"{', '.join(edited)} changed since the run in {out} began; add --out {out}-2, give "
            f"RECIPE another name, or delete that folder. (To go on there with the new code, "
            f'delete "code" from its config.json)'
        )


def recipe_file(config) -> str | None:
    """The file that defines a recipe's Config; None for one that is defined in a notebook."""
    return getattr(sys.modules[type(config).__module__], "__file__", None)


def code_digests(config) -> dict[str, str]:
    """{file: its digest} of the code that must not change when a run is continued.

    These are losses.py, rewards.py, the recipe's file, the file of --reward, and what they import
    from their own folders.
    """
    names = losses.__file__, rewards.__file__, recipe_file(config), config.reward.rpartition(":")[0]
    scripts = [Path(name).expanduser().resolve() for name in names if name]
    root = scripts[0].parent
    paths = sorted({path for script in scripts for path in with_neighbours(script)})
    return {str(path).removeprefix(f"{root}/"): files.digest(path) for path in paths}


def with_neighbours(script: Path) -> list[Path]:
    """A script, and the files next to it that it imports, itself or through one another.

    Raises Refused if Python has found another file for such an import, one earlier on its path.
    """
    found = [script]
    for path in found:  # which grows
        for name in _imports(path):
            tail = name.lstrip(".").replace(".", "/") + ".py"
            near = path.with_name(Path(tail).name)
            if near in found or not near.is_file() or not str(near).endswith(f"/{tail}"):
                continue
            found.append(near)
            loaded = getattr(sys.modules.get(name), "__file__", None) or near
            if Path(loaded).resolve() != near:
                raise Refused(
                    f"{near} has no effect, because {path.name} gets {loaded} by that import: give "
                    f"it a name that no module here has"
                )
    return found


def _imports(path):
    """Yield the name of each module that a file may import; a relative one begins with a dot."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))
