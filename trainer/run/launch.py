"""From the command line into a recipe's main, and out of it: every end of a process is here."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from trainer.errors import Refused


def launch(main: Callable, config) -> None:
    """Run main(config) and leave. What the user can correct becomes one sentence and status 1."""
    transformers_logging.disable_progress_bar()  # one bar on the screen, ours
    try:
        if getattr(config, "check", False):
            from trainer.run.check import check  # here: a run has no need of it

            check(config, model_folder(config.model))
        else:
            main(config)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            traceback.print_exc()
        leave(f"{Path(sys.argv[0]).name}: {sentence}" if sentence else 1)
    except KeyboardInterrupt:
        leave(130)
    leave()


def _sentence(error: Exception) -> str | None:
    """What to tell the user of an error; None where only a traceback helps."""
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"out of GPU memory ({str(error).partition('. ')[0]}): lower --tokens_per_micro_batch "
            f"or --engine_memory, or give --offload; docs/running.md has a table"
        )
    if isinstance(error, MemoryError):
        return "out of memory on this machine: docs/running.md says how much a run takes"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" to write {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}: make room, the same command continues the run"
    if isinstance(error, Refused):
        return str(error)
    # With other ranks there, a lost connection is the trace that a dead one leaves.
    if isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    ):
        return f"rank {os.environ.get('RANK', 0)} ends because another rank has ended"
    return None


def leave(status: int | str = 0) -> None:
    """End this process with that status, or with a sentence for stderr and status 1.

    A rank among others does not wait for its libraries to take themselves apart. vLLM ends the
    process group, by a call that all ranks have to make together: a rank that has failed would wait
    there for ranks that wait for it in another. And gloo's threads abort a process whose peer goes
    first. torchrun sees a status above 0 and ends the other ranks.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        if (
            dist.is_initialized() and "vllm" not in sys.modules
        ):  # which ends it after its own groups
            dist.destroy_process_group()
        if status:
            sys.exit(status)
        return
    if status == 0:
        dist.barrier()  # nobody leaves while another still talks to it
    elif isinstance(status, str):
        # On a line of its own: above this rank's bar, or after rank 0's, which tqdm cannot see.
        tqdm.write(f"\n{status}" if dist.get_rank() else status, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def model_folder(model: str) -> str:
    """A --model value as transformers and vLLM take it. "tiny:NAME" is in the embedded world."""
    if model.startswith("tiny:"):
        from tiny.pretrain import base_model  # here: real models need no tiny world

        try:
            return base_model(model.removeprefix("tiny:"))
        except ValueError as error:
            raise Refused(f"--model {model}: {error}") from None
    folder = Path(model).expanduser()
    return str(folder) if folder.exists() else model
