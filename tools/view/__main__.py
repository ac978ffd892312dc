"""Write a page that shows the answers of a run or an evaluation, token by token.

    python -m tools.view runs/justrl-tiny-seed0               writes view.html there; open it
    python -m tools.view runs/A runs/B                        two runs over the same problems
    python -m tools.view evals/base evals/trained             two of evaluate.py's folders

The page is one file that needs no server and no network. docs/view.md explains it.
"""

import argparse
import sys
from pathlib import Path

from tools.view.folder import load
from tools.view.page import render
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
    args = parser.parse_args()
    if len(args.folders) > 2:
        parser.error("one page compares two folders at most")
    args.folders = [folder.expanduser() for folder in args.folders]
    args.out = args.out or args.folders[0] / "view.html"
    share = 1 / len(args.folders)
    try:
        sources = [load(folder, args.steps, share) for folder in args.folders]
        if args.steps is not None and not any(source.groups for source in sources):
            raise Refused("no rollouts were kept of these --steps; without it, all are shown")
        write_atomically(args.out, render(sources))
        for source in sources:
            print(f"{source.name}: {len(source.groups)} groups {source.left_out}".rstrip())
        print(f"Open {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")
    except (Refused, OSError) as error:
        sys.exit(f"tools.view: {error}")


if __name__ == "__main__":
    main()
