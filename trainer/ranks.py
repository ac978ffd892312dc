"""Several ranks: one process for each GPU, started by torchrun.

Every rank holds the whole batch of rollouts, which is small, and trains on its share. So every rank
computes advantages, mini-batches and token weights in the same way, without communication. Ranks
communicate in three places: `gather` after sampling, the gradient (FSDP2), and `from_all_ranks` for
a run's metrics and files.
"""

import datetime
import os
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist

from trainer.data import Rollout


def start_ranks(one_thread: bool = False) -> torch.device:
    """Join torchrun's process group, or make one of a single rank. Returns this rank's device.

    A group of one spares every caller an `if`. It must exist before vLLM starts, because otherwise
    vLLM makes its own default group.

    one_thread: compute on one thread, so that a tiny model's sums do not depend on the number of
    cores. Two threads would be about 1.3 times faster.
    """
    if one_thread:
        torch.set_num_threads(1)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        # Almost every micro-batch has a new shape. Without expandable segments, memory fragments
        # until it runs out after some steps. (vLLM reads only this older name of the variable.)
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        # cuDNN's attention would build a new plan for every shape, forward and backward.
        torch.backends.cuda.enable_cudnn_sdp(False)
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if "WORLD_SIZE" in os.environ:
            longest_wait = datetime.timedelta(hours=2)  # one rank may sample much longer
            dist.init_process_group(backend, timeout=longest_wait)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return device


def my_share(items: list) -> list:
    """This rank's part of items, dealt round robin; `gather` puts the parts together again.

    Neighbours are often similar, such as problems of one benchmark, so each rank gets a mix.
    """
    return items[dist.get_rank() :: dist.get_world_size()]


def gather(groups: list[list[Rollout]]) -> list[list[Rollout]]:
    """The groups of all ranks, on every rank, in the order from before `my_share`."""
    if dist.get_world_size() == 1:
        return groups
    return [g for dealt in zip_longest(*from_all_ranks(groups)) for g in dealt if g is not None]


def from_all_ranks(value: Any) -> list:
    """The values with which the ranks have called this, in the order of ranks, on every rank."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
