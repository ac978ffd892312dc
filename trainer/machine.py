"""How much memory is free."""

import os
from pathlib import Path

import torch


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
