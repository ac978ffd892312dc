"""Run a recipe's main from the command line, and end its process with the right exit status."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import torch
import torch.distributed as dist
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from tqdm import tqdm

from trainer.errors import Refused
from trainer.network import reach_hub


def launch(main: Callable, config) -> None:
    """Run main(config) and end. What the user can correct becomes one sentence and status 1."""
    # Only our own progress bar is shown. The import takes seconds, so it comes after the flags.
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        if getattr(config, "check", False):
            from trainer.run.check import check  # here: a run has no need of it

            check(main, config, model_folder(config.model))
        else:
            main(config)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            traceback.print_exc()
        leave(f"{Path(sys.argv[0]).name}: {sentence}" if sentence else 1)
    except KeyboardInterrupt as stop:
        leave(128 + (stop.args[0] if stop.args else signal.SIGINT))
    leave()


def _sentence(error: Exception) -> str | None:
    """The message for an error that the user can correct; None if only a traceback helps."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"out of GPU memory ({str(error).partition('. ')[0]}): lower --tokens_per_micro_batch "
            f"or --engine_memory, or give --offload; docs/running.md has a table"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" to write {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}: make room, the same command continues the run"
    gloo = isinstance(error, RuntimeError) and "gloo" in str(error)
    if gloo or isinstance(error, dist.DistError):  # a lost connection
        return f"rank {os.environ.get('RANK', 0)} ends because another rank has ended"
    return None


def leave(status: int | str = 0) -> None:
    """End this process with that status, or with a sentence on stderr and status 1.

    A status of 128 + N ends it by signal N, which tells a shell that Ctrl-C was meant for its loop
    as well.

    With several ranks, or with vLLM, leave by os._exit. vLLM's clean-up is a collective call, in
    which a failed rank would wait for ever, and it may hang on one GPU too. gloo's threads abort a
    process whose peer has left. torchrun sees a status above 0 and ends the other ranks.
    """
    sys.stdout.flush()
    if isinstance(status, int) and status > 128:
        signal.signal(status - 128, signal.SIG_DFL)
        os.kill(os.getpid(), status - 128)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if ranks == 1 and "vllm" not in sys.modules:
        if dist.is_initialized():
            dist.destroy_process_group()
        if status:
            sys.exit(status)
        return
    if ranks > 1 and status == 0:
        dist.barrier()  # another rank may still need this one
    elif isinstance(status, str):
        # On a line of its own: above this rank's bar, or after rank 0's, which tqdm cannot see.
        tqdm.write(f"\n{status}" if ranks > 1 and dist.get_rank() else status, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def model_folder(model: str) -> str:
    """The folder or hub id of a --model value. "tiny:NAME" is a model of the embedded worlds.

    ID@REVISION (a branch, tag or commit) is the folder that the hub's files are downloaded to.
    Raises Refused for an unknown NAME or revision.
    """
    if model.startswith("tiny:"):
        from tiny.pretrain import base_model  # here: real models need no tiny world

        try:
            return base_model(model.removeprefix("tiny:"))
        except ValueError as error:
            raise Refused(f"--model {model}: {error}") from error
    folder = Path(model).expanduser()
    if folder.exists():
        return str(folder)
    reach_hub()
    name, _, revision = model.partition("@")
    if not revision:
        known = huggingface_hub.try_to_load_from_cache(name, "config.json")
        if constants.HF_HUB_OFFLINE and not isinstance(known, str):
            raise Refused(f"{name} was never downloaded: check the network, or give a folder")
        return model
    kinds = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=kinds)
    except (OSError, HfHubHTTPError) as error:
        why = str(error).strip().partition("\n")[0]
        raise Refused(f"--model {model} cannot be had from the hub: {why}") from error
