"""Write a page that shows the answers of a run or an evaluation, token by token.

    python -m tools.view runs/justrl-tiny-seed0               writes view.html there; open it
    python -m tools.view runs/justrl-tiny-seed0 --watch 10    rewrites it while the run continues
    python -m tools.view runs/A runs/B                        two runs over the same problems
    python -m tools.view evals/base evals/trained             two of evaluate.py's folders
    python -m tools.view runs/justrl-tiny-seed0 --text        the newest step, in the terminal

The page is one file that needs no server and no network. docs/view.md explains it.
"""

import argparse
import shutil
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from tools.view.folder import Grader, Source, load
from tools.view.page import render
from tools.view.text import show
from trainer.errors import Refused
from trainer.run.files import write_atomically


def steps_of(text: str) -> range:
    """ "12" -> one step, "10:20" -> steps 10 to 20, "10:" and ":20" -> from, up to."""
    first, colon, last = text.partition(":")
    try:
        begin = int(first or 0)
        return range(begin, (int(last) if last else sys.maxsize - 1 if colon else begin) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no step and no FIRST:LAST") from None


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"give 1 to 3600 seconds, not {text!r}")
    return value


def write_page(args, grader: Grader) -> list[Source]:
    """Write the page. Returns what it shows."""
    share = 1 / len(args.folders)
    sources = [load(folder, args.steps, grader, share) for folder in args.folders]
    running = any(not source.finished for source in sources)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, render(sources, args.watch if running else 0))
    return sources


def fingerprint(folders: list[Path]) -> list:
    """A value that changes whenever a file does that the page is made from."""
    kinds = ("*.json", "*.jsonl", "rollouts/*.parquet")
    paths = sorted(path for folder in folders for kind in kinds for path in folder.glob(kind))
    return [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]


def watch(args, grader: Grader) -> None:
    """Rewrite the page whenever the runs have new steps, until they have ended."""
    pause, seen, sources = threading.Event(), None, []
    while seen is None or any(not source.finished for source in sources):
        with suppress(FileNotFoundError):  # a run that resumes at this moment deletes later steps
            now = fingerprint(args.folders)
            if now != seen:
                sources, seen = write_page(args, grader), now
                last = max((step for source in sources for step in source.steps), default=0)
                print(f"{time.strftime('%H:%M:%S')} step {last}: {args.out}", flush=True)
        pause.wait(args.watch)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="one folder or two")
    parser.add_argument("--out", type=Path, help="the page; default view.html in the first folder")
    parser.add_argument("--steps", type=steps_of, help="of a run: one step, or FIRST:LAST")
    parser.add_argument("--text", action="store_true", help="in the terminal, no page")
    parser.add_argument(
        "--watch",
        type=seconds,
        default=0,
        metavar="SECONDS",
        help="rewrite it while the run continues",
    )
    args = parser.parse_args()
    if len(args.folders) > 2:
        parser.error("one page compares two folders at most")
    args.folders = [folder.expanduser() for folder in args.folders]
    args.out = args.out or args.folders[0] / "view.html"
    grader = Grader()
    try:
        if args.text:
            width = shutil.get_terminal_size((100, 40)).columns
            for folder in args.folders:
                print(show(load(folder, args.steps, grader), width))
        elif args.watch:
            watch(args, grader)
        else:
            sources = write_page(args, grader)
            for source in sources:
                print(
                    f"{source.name}: {len(source.groups)} groups", *filter(None, [source.left_out])
                )
            print(f"Open {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")
    except (Refused, OSError) as error:
        sys.exit(f"tools.view: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
