"""How much memory is free now, and the least that was free during a block of code."""

import os
import resource
import sys
import threading
from pathlib import Path

import torch

LOCAL_RANKS = int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def device_memory(device: torch.device) -> int:
    """Bytes of the GPU that this process may use; 0 without one."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def host_memory() -> int:
    """Bytes of host memory that are free or can be freed, within the limit of the container."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    info = Path("/proc/meminfo")
    if info.exists():
        values = dict(line.split(":") for line in info.read_text().splitlines())
        free = 1024 * int(values["MemAvailable"].split()[0])
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return free


class LeastFree(threading.Thread):
    """Record the least free memory during a `with` block.

    Torch's counters and the process's size would miss vLLM, NCCL and pinned memory.
    """

    def __init__(self, device: torch.device):
        super().__init__(daemon=True)
        self.ended, self.where = threading.Event(), device
        self.device_at_first = self.device = device_memory(device)
        self.host_at_first = self.host = host_memory()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            self.device = min(self.device, device_memory(self.where))
            self.host = min(self.host, host_memory())

    def host_needed(self) -> int:
        """Host memory needed, in bytes; on a CPU only that of its ranks."""
        if self.where.type == "cuda":
            return self.host_at_first - self.host
        unit = 1 if sys.platform == "darwin" else 1024
        return LOCAL_RANKS * unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.join()
