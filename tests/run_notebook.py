"""Run a notebook's cells one after the other, without Jupyter, and keep what they show.

    PYTHONPATH=. python tests/run_notebook.py docs/one_step.ipynb      run it and write the outputs

Cells are plain Python. A cell shows what it prints and, at its end, the value of an expression.
"""

import ast
import contextlib
import io
import json
import sys
from pathlib import Path


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict) -> dict:
    """Run all cells and put their outputs in place. Returns the names that they define.

    Raises what a cell raises.
    """
    names = {"__name__": "__main__"}
    for count, cell in enumerate(code_cells(notebook), 1):
        tree, printed = ast.parse("".join(cell["source"])), io.StringIO()
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        place = f"cell {count}"
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, place, "exec"), names)
            value = last and eval(compile(ast.Expression(last.value), place, "eval"), names)
        cell["execution_count"], cell["outputs"] = count, []
        if text := printed.getvalue():
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": lines(text)})
        if value is not None:
            result = {"output_type": "execute_result", "execution_count": count, "metadata": {}}
            cell["outputs"].append(result | {"data": {"text/plain": lines(repr(value))}})
    return names


def lines(text: str) -> list[str]:
    """As notebooks keep text: a list of lines with their ends."""
    return text.splitlines(keepends=True)


def main() -> None:
    path = Path(sys.argv[1])
    notebook = json.loads(path.read_text())
    run(notebook)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
