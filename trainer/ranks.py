"""Several ranks: one process for each GPU, started by torchrun.

Every rank holds the whole batch of rollouts, which is small, and trains on its share. So every rank
computes advantages, mini-batches and token weights in the same way, without communication. Ranks
communicate in three places: `gather` after sampling, the gradient (FSDP2), and `mean_over_ranks`
for the log.
"""

import datetime
import os
from itertools import chain, zip_longest

import numpy as np
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
    """The groups of all ranks, on every rank, in the order from before `my_share`.

    A step may have fifteen million tokens. They are sent as a few flat arrays, and the returned
    rollouts are views of these.
    """
    if dist.get_world_size() == 1:
        return groups
    return [g for dealt in zip_longest(*_parts(groups)) for g in dealt if g is not None]


def _parts(groups):
    """Yield the groups of each rank."""
    rollouts = list(chain(*groups))
    texts = [r.text.encode("utf-8", "surrogatepass") for r in rollouts]
    rows = [
        [len(r.prompt_ids), len(r.response_ids), len(text), r.truncated, r.right, r.reward]
        for r, text in zip(rollouts, texts, strict=True)
    ]
    text = _from_all_ranks([np.frombuffer(text, np.uint8) for text in texts], np.uint8)
    del texts
    ids = [array for r in rollouts for array in (r.prompt_ids, r.response_ids)]
    arrays = [
        _from_all_ranks([[len(group) for group in groups]], np.int64),
        _from_all_ranks(rows, np.float64),  # exact for these counts
        text,
        _from_all_ranks(ids, np.int32),
        _from_all_ranks([r.logps for r in rollouts], np.float32),
    ]
    for sizes, table, text, ids, logps in zip(*arrays, strict=True):
        found = _rollouts(table.reshape(-1, 6).tolist(), text, ids, logps)
        yield [[next(found) for _ in range(size)] for size in sizes]


def _rollouts(rows, text, ids, logps):
    id_start = logp_start = text_start = 0
    for prompt, response, characters, truncated, right, reward in rows:
        id_middle = id_start + int(prompt)
        id_end, logp_end = id_middle + int(response), logp_start + int(response)
        text_end = text_start + int(characters)
        yield Rollout(
            prompt_ids=ids[id_start:id_middle],
            response_ids=ids[id_middle:id_end],
            logps=logps[logp_start:logp_end],
            truncated=bool(truncated),
            text=str(text[text_start:text_end], "utf-8", "surrogatepass"),
            right=right,
            reward=reward,
        )
        id_start, logp_start, text_start = id_end, logp_end, text_end


def _from_all_ranks(arrays: list, dtype: type) -> list[np.ndarray]:
    """For each rank, its arrays joined into a flat one."""
    own, world = sum(map(len, arrays)), dist.get_world_size()
    lengths = torch.zeros(world, 1, dtype=torch.int64)
    dist.all_gather(list(lengths), torch.tensor([own]))
    longest = int(lengths.max())
    padded = np.zeros(longest, dtype)
    if arrays:
        np.concatenate([np.asarray(array, dtype) for array in arrays], out=padded[:own])
    whole = torch.empty(world, longest, dtype=torch.from_numpy(padded).dtype)
    if longest:
        dist.all_gather(list(whole), torch.from_numpy(padded))
    return [row[: int(length)].numpy() for row, length in zip(whole, lengths, strict=True)]


def mean_over_ranks(values: list[float]) -> list[float]:
    """Elementwise mean over the ranks, in float64."""
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return (tensor / dist.get_world_size()).tolist()
