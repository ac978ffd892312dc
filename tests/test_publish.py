"""What leaves a run: dashboards, the model card, the upload. Services are stand-ins; no network."""

import importlib
import json
import sys
import types
from pathlib import Path

import pytest
import yaml
from forge import no_picture
from huggingface_hub.utils import filter_repo_objects

import justrl
from trainer.run import publish
from trainer.run.files import read_jsonl

RECIPES = {"justrl": "2512.16649", "prorl": "2505.24864", "liteppo": "2508.08221"}
SERVICE = """
import json
def _write(kind, **what):
    with open({log!r}, "a") as file:
        file.write(json.dumps([kind, what]) + "\\n")
def init(**options):
    _write("init", **options)
def log(metrics, step):
    _write("log", metrics=metrics, step=step)
def finish():
    _write("finish")
"""


@pytest.fixture
def service(tmp_path, monkeypatch):
    """service(name) makes a package of that name that writes down its calls; returns a reader."""
    log = tmp_path / "calls.jsonl"

    def service(name):
        (tmp_path / f"{name}.py").write_text(SERVICE.format(log=str(log)))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]

    yield service
    for name in ("trackio", "wandb"):
        sys.modules.pop(name, None)


def short_run(out, **flags):
    """A run of two steps in this process."""
    few = {"steps": 2, "prompts_per_step": 2, "samples_per_prompt": 2, "eval_samples": 1}
    few |= {"eval_data": "tiny:eval/easy", "max_response_tokens": 8, "eval_max_tokens": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(justrl, "plot_run", no_picture)
        justrl.main(justrl.Config(**justrl.TINY | {"out": str(out)} | few | flags))


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_run_reports_every_step_to_the_service(name, service, tmp_path):
    calls = service(name)
    short_run(tmp_path / "run", report_to=name)
    (kind, options), *logs, last = calls()
    assert kind == "init" and last == ["finish", {}]
    assert (options["project"], options["name"], options["resume"]) == ("justrl", "run", "allow")
    assert options["config"]["learning_rate"] == 1e-4
    assert [what["step"] for _, what in logs] == [0, 1, 2]
    assert logs[1][1]["metrics"].keys() >= {"reward", "entropy", "seconds_step"}


def test_a_continued_run_is_the_same_run_and_a_new_one_is_another(service, tmp_path):
    calls = service("wandb")
    config = {"report_to": "wandb"}
    for text in ("{}", None, "{}\n"):
        if text:
            (tmp_path / "config.json").unlink(missing_ok=True)
            (tmp_path / "config.json").write_text(text)
        publish.make_reporters(tmp_path, "justrl", config)
    first, continued, other = [options["id"] for _, options in calls()]
    assert first == continued != other


def test_what_is_missing_to_publish_is_found_at_the_start(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for changed, sentence in (
        ({"report_to": "trackio"}, "needs its package: pip install trackio"),
        ({"report_to": "wandb"}, "needs its package: pip install wandb"),
        ({"push_to_hub": "me/mine"}, "--push_to_hub needs a login"),
    ):
        assert sentence in justrl.Config(**justrl.TINY | changed).fault()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish.huggingface_hub, "HfApi", lambda: pytest.fail("uploaded unasked"))
        short_run(out)
    return out


def test_the_trained_folder_has_a_model_card_with_its_curves(trained):
    folder = trained / "checkpoints" / "step_000002"
    assert (folder / "curves.png").read_bytes() == (trained / "curves.png").read_bytes()
    _, meta, card = (folder / "README.md").read_text().split("---\n", 2)
    meta = yaml.safe_load(meta)
    assert {"reinforcement-learning", "justrl"} <= set(meta["tags"])
    assert "base_model" not in meta and "datasets" not in meta  # nothing of it is on the hub
    assert "(curves.png)" in card and "2512.16649" in card
    assert "| `learning_rate` | `0.0001` |" in card and str(trained) not in card
    rows = read_jsonl(trained / "metrics.jsonl")
    before, after = rows[0]["eval_accuracy"], rows[-1]["eval_accuracy"]
    assert f"| held-out pass@1 | {before:.4g} | {after:.4g} |" in card
    assert "--steps=2" in card and "--clip_low" not in card  # the flags that differ


@pytest.mark.parametrize(("recipe", "paper"), RECIPES.items())
def test_a_card_names_what_is_on_the_hub_and_the_paper(recipe, paper):
    config = importlib.import_module(recipe).Config()
    rows = [{"step": 0}, {"step": 1} | dict.fromkeys(publish.MEASURES, 0.5)]
    card = publish.model_card(recipe, config, rows)
    meta = yaml.safe_load(card.split("---\n")[1])
    assert meta["base_model"] == config.model
    assert paper in card
    assert meta.get("datasets") == ([config.data] if "/" in config.data else None)
    assert f"python {recipe}.py\n" in card
    assert f"python {recipe}.py\n" in publish.model_card("a name of its own", config, rows)


def test_before_and_after_are_means_over_the_first_and_last_steps():
    values = [0.0, 1.0, 2.0, 3.0]
    rows = [{"step": 0, "eval_accuracy": 0.25}]
    rows += [{"step": n + 1} | dict.fromkeys(publish.MEASURES, v) for n, v in enumerate(values)]
    found = publish.before_and_after(rows)
    assert found["held-out pass@1"] == (0.25, 0.25)
    assert found["reward"] == (0.5, 2.5)
    assert publish.before_and_after(rows[:1]) == {}


class Hub:
    """Takes the place of huggingface_hub.HfApi."""

    def __init__(self, error=None):
        self.error, self.calls = error, []

    def create_repo(self, name, **options):
        self.calls.append(("create", name, options))
        if self.error:
            raise self.error
        return types.SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, **options):
        folder, ignored = Path(options["folder_path"]), options["ignore_patterns"]
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        files = set(filter_repo_objects(files, ignore_patterns=ignored))
        self.calls.append(("upload", files, options["repo_id"]))


def test_an_upload_is_private_and_leaves_out_what_only_a_continued_run_needs(trained, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(publish.huggingface_hub, "HfApi", lambda: hub)
    publish.push_to_hub(trained / "checkpoints" / "step_000002", "mine")
    (_, name, options), (_, files, target) = hub.calls
    assert (name, target) == ("mine", "me/mine") and options["private"] is True
    assert {"README.md", "curves.png", "config.json", "model.safetensors"} <= files
    assert not files & {"training/optimizer.safetensors", "state.json"}


def test_a_finished_run_uploads_once_and_a_failed_upload_loses_nothing(tmp_path, monkeypatch):
    hub = Hub(OSError("no route to host\nmore"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a login")
    monkeypatch.setattr(publish.huggingface_hub, "HfApi", lambda: hub)
    with pytest.raises(ValueError, match=r"complete, but not uploaded \(no route to host\).*hf up"):
        short_run(tmp_path / "run", push_to_hub="mine")
    assert (tmp_path / "run" / "checkpoints" / "step_000002" / "README.md").exists()
    assert len(hub.calls) == 1
