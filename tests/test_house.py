"""The layout: what lies at the top level, and who imports whom."""

import ast
import re
import shutil
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

# Who stands on whom: a module may import from its own room and from the rooms before it.
FLOORS = [
    {"losses", "verifier", "tiny"}, {"rewards"}, {"trainer"}, {"tools"},
    {"justrl", "prorl", "liteppo", "evaluate"}, {"bench"}, {"lab"}, {"tests"},
]  # fmt: skip
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The same inside trainer/.
TRAINER = [
    {"errors"}, {"machine", "data", "ranks"}, {"network"}, {"sources", "policy"}, {"sampler"},
    {"run"},
]  # fmt: skip
TRAINER_ROOMS = {room: floor for floor, rooms in enumerate(TRAINER) for room in rooms}


def tracked():
    """The files of the house. A recipe of one's own, mine.py or experiments/, has no such rules."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("this is no git checkout")
    return [path for path in listing.stdout.splitlines() if is_ours(path)]


def is_ours(path):
    top, slash, _ = path.partition("/")
    if top.removesuffix(".py") in ROOMS or top == "docs" or top.startswith("."):
        return True
    return not slash and not top.endswith(".py")


def test_a_recipe_of_one_s_own_is_a_guest():
    assert not is_ours("mine.py") and not is_ours("experiments/mine.py")
    assert is_ours("justrl.py") and is_ours("trainer/run/run.py") and is_ours("README.md")


def test_every_entry_at_the_top_level_is_on_the_map_of_the_readme():
    section = (ROOT / "README.md").read_text().partition("\n## Map\n")[2].partition("\n## ")[0]
    named = {name.rstrip("/") for name in re.findall(r"`([\w.-]+/?)`", section)}
    entries = {path.partition("/")[0] for path in tracked()} - {"README.md"}
    entries = {entry for entry in entries if not entry.startswith(".")}
    assert entries <= named, f"not on the README's map: {sorted(entries - named)}"


def test_links_lead_somewhere():
    pages = [ROOT / name for name in ("README.md", "lab/README.md", "tiny/README.md")]
    for page in [*pages, *(ROOT / "docs").glob("*.md")]:
        for link, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", page.read_text()):
            target = page.parent / link if link else page
            assert target.exists(), f"{page.name} links to {link}"
            titles = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE) if anchor else []
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert not anchor or anchor in anchors, f"{page.name} links to {link}#{anchor}"


def sources():
    """{path: text} of all modules."""
    return {path: (ROOT / path).read_text() for path in tracked() if path.endswith(".py")}


def module_of(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports():
    """{module: modules of ours that it imports}, also inside functions."""
    files = {module_of(path): text for path, text in sources().items()}
    graph = {}
    for module, text in files.items():
        names = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= (inner & files.keys()) or {node.module}
        graph[module] = {name for name in names if name in files and name != module}
    return graph


def test_no_import_points_upward():
    for module, imported in imports().items():
        here = ROOMS[module.partition(".")[0]]
        for other in imported:
            assert ROOMS[other.partition(".")[0]] <= here, f"{module} imports {other}"
            if module.startswith("trainer.") and other.startswith("trainer."):
                rooms = TRAINER_ROOMS[module.split(".")[1]], TRAINER_ROOMS[other.split(".")[1]]
                assert rooms[1] <= rooms[0], f"{module} imports {other}"


def test_no_module_name_occurs_twice():
    names = [Path(path).name for path in sources()]
    twice = {name for name in names if names.count(name) > 1} - {"__init__.py", "__main__.py"}
    assert not twice


def test_imports_form_no_circle():
    TopologicalSorter(imports()).prepare()  # raises CycleError, which names the modules


def test_no_module_is_found_by_tricks():
    trick = re.compile(r"sys\.path\.(insert|append)|PYTHONSAFEPATH")
    # A user's reward file gets its folder on the path, as a script does.
    allowed = {"tests/test_house.py", "trainer/run/own_reward.py"}
    for path, text in sources().items():
        assert path in allowed or not trick.search(text), path


def test_docstrings_hold_what_their_source_shows():
    """An unescaped backslash turns "\\boxed" into a backspace and "oxed", also in --help."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    for path, source in sources().items():
        for node in ast.walk(ast.parse(source)):
            text = (ast.get_docstring(node) or "") if isinstance(node, documented) else ""
            assert text.replace("\n", "").isprintable(), f"{path}: {text[:60]!r}"


SLOW = {"transformers", "datasets", "matplotlib", "scipy", "sympy", "vllm"}
SLOW |= {"torch.distributed.fsdp", "torch.distributed.tensor"}


@pytest.mark.parametrize("script", ["justrl", "prorl", "liteppo", "evaluate"])
def test_help_and_a_wrong_flag_wait_for_torch_alone(script):
    """What a script imports before it looks at its flags. torch itself takes a second or two."""
    ours, seen, ahead = sources(), set(), [f"{script}.py"]
    while ahead:
        path = ahead.pop()
        seen.add(path)
        for node in ast.parse(ours[path]).body:
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{name}" for name in names)]
            for name in names if isinstance(node, ast.Import | ast.ImportFrom) else []:
                assert name not in SLOW and name.partition(".")[0] not in SLOW, f"{path}: {name}"
                inner = name.replace(".", "/")
                ahead += ({f"{inner}.py", f"{inner}/__init__.py"} & ours.keys()) - seen


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_of_the_quick_start_compiles_the_code(version):
    """Where that interpreter is at hand. It needs no torch for this."""
    pyenv = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")
    python = next(pyenv, None) or shutil.which(f"python{version}")
    if python is None:
        pytest.skip(f"no Python {version} here")
    read = "import sys\nfor path in sys.argv[1:]: compile(open(path).read(), path, 'exec')"
    command = [python, "-W", "error", "-c", read, *sources()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
