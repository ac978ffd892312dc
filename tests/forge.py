"""Runs scripts in forks of a process that has imported what they need, as conftest.py orders.

A script spends seconds on importing torch and transformers before it does anything. A fork starts
at once and is still a process of its own, with its own signals and exit status. Several ranks are
forks too, under a launcher that ends them all when one fails, as torchrun does.
"""

import atexit
import faulthandler
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import sys
import threading
import time
import traceback

from tqdm import tqdm

# What scripts import sooner or later; pyarrow loads pandas when it writes the first rollouts.
LOADED = """losses rewards tiny.pretrain tiny.world tools.plot trainer.run.launch trainer.run.run
trainer.sources.load pandas pyarrow.compute scipy.stats""".split()  # noqa: SIM905


def run(command: list[str]):
    """Run a .py file, or a module, as `python` would. It ends this process."""
    # The bars' lock is shared by all forks otherwise: one that is killed would keep it for ever.
    tqdm.set_lock(threading.RLock())
    sys.argv, status = command, 0
    try:
        if command[0].endswith(".py"):
            runpy.run_path(command[0], run_name="__main__")
        else:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)  # an ordinary exit takes all of torch apart, longer than most tests


def run_ranks(count: int, command: list[str]):
    """Run the command on as many ranks, and end this process with status 1 if one of them fails."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    ranks, failed = [], False
    for rank in range(count):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(os.fork() or run(command))
    while ranks:
        pid, status = os.wait()
        ranks.remove(pid)
        if status and not failed:
            failed = True
            for other in ranks:
                os.kill(other, signal.SIGKILL)
    os._exit(failed)


FORKING = threading.Lock()  # filelock, which transformers imports, forbids two forks at a time


class Popen:
    """Takes the place of subprocess.Popen in a script: a Python script runs in a fork, too."""

    def __init__(self, command, *, env, stdout, **_):
        assert command[0] == sys.executable
        with FORKING:
            pid = os.fork()
        if not pid:
            redirect(os.open("/dev/null", os.O_RDONLY), stdout.fileno(), stdout.fileno())
            os.environ |= env
            run(command[1:])
        self.pid = pid

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


def redirect(*files: int) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)


def signal_itself(sort: int, after: int, steps: float) -> None:
    """Let this process send itself a signal once it has logged a step and worked on for so many
    steps' time. A test that watched from outside might come too late on a busy machine.
    """
    run, logged_at = sys.modules["trainer.run.run"].Run, [0.0]
    log = run.log

    def then_signal(self, step, metrics):
        log(self, step, metrics)
        seconds = time.process_time() - logged_at[0]
        logged_at[0] = time.process_time()
        if step == after and steps:
            signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), sort))
            signal.setitimer(signal.ITIMER_PROF, steps * seconds)
        elif step == after:
            os.kill(os.getpid(), sort)

    run.log = then_signal


def no_picture(_, path) -> None:
    """Takes the place of tools.plot.plot_run, which takes longer than the run of most tests."""
    path.write_bytes(b"\x89PNG")


def obey(order: dict) -> int:
    """Wait for a process and return its status, or start one and return its number."""
    if "wait" in order:
        return os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
    if pid := os.fork():
        return pid
    os.setpgid(0, 0)  # a group of its own, so that a script that hangs is ended with its ranks
    faulthandler.enable()  # its stacks are what a test can show
    how = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    redirect(*(os.open(name, how) for name in ("/dev/null", order["stdout"], order["stderr"])))
    if largest := order["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    os.environ |= order["environment"]
    if order["signals"]:
        signal_itself(*order["signals"])
    if order["ranks"] > 1:
        run_ranks(order["ranks"], order["command"])
    return run(order["command"])


def main() -> None:
    for name in LOADED:
        importlib.import_module(name)
    sys.modules["tiny.world"].problems("train", "mixed")
    sys.modules["tools.plot"].plot_run = no_picture
    for line in sys.stdin:
        print(obey(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
