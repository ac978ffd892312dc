"""The command line: every value is checked before anything is loaded or claimed."""

import fcntl
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from conftest import ROOT, python

import justrl
import liteppo
import prorl
from trainer.errors import Refused
from trainer.run import launch
from trainer.run.flags import parse
from trainer.run.run import Run

RECIPES = {"justrl": justrl, "prorl": prorl, "liteppo": liteppo}


@pytest.fixture
def config(monkeypatch):
    """config("justrl", "--steps", 3) -> the config of that command, in the embedded world."""

    def config(recipe, *flags):
        module = RECIPES[recipe]
        command = [f"{recipe}.py", "--tiny", *map(str, flags)]
        monkeypatch.setattr(sys, "argv", command)
        return parse(module.Config, {"tiny": module.TINY}, module.__doc__)

    return config


REFUSED = """temperature=-1 temperature=0 temperature=nan temperature=inf learning_rate=nan
learning_rate=0 learning_rate=1e3 eval_top_p=0 eval_top_p=1.5 eval_samples=0 eval_every=-2
save_every=-7 prompts_per_step=0 samples_per_prompt=1 updates_per_step=1000000 updates_per_step=0
steps=0 steps=many seed=-1 max_response_tokens=0 max_grad_norm=0 weight_decay=-0.1
keep_checkpoints=0 keep_rollouts=some keep_rollouts=-1 keep_rollouts=1.5 keep_rollouts=
engine=sglang engine_memory=1 gradient_checkpointing=maybe tokens_per_micro_batch=0 data=
model= model=nowhere model=./nowhere out=~no-such-user-here/run warmup_steps=-1 clip_low=2
clip_high=-0.1 kl_estimator=k4 center=mean scale=std aggregation=mean reward=absent.py:f"""


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_value_that_makes_no_sense_is_one_sentence(config, capsys, recipe):
    own = RECIPES[recipe].Config
    for flag in [*REFUSED.split(), "eval_data=  ", "model=no such folder", "out=  "]:
        name = flag.partition("=")[0]
        if hasattr(own, name):
            with pytest.raises(SystemExit) as end:
                config(recipe, f"--{flag}")
            error = capsys.readouterr().err.strip().splitlines()[-1]
            assert error.startswith(f"{recipe}.py: error: ") and f"--{name}" in error, flag
            assert ("must be finite" in error) == flag.endswith(("=nan", "=inf")), flag
            assert end.value.code == 2


@pytest.mark.parametrize("recipe", RECIPES)
def test_zero_and_minus_one_mean_never(config, recipe):
    for value in (0, -1):
        got = config(recipe, f"--eval_every={value}", f"--save_every={value}", "--eval_data=")
        assert (got.eval_every, got.save_every) == (0, 0)


def test_a_wrong_flag_or_folder_gets_a_suggestion(config, capsys, tmp_path):
    (tmp_path / "model-small").mkdir()
    for wrong, said in (
        ("--lerning_rate=1", "did you mean --learning_rate?"),
        ("--save-every=2", "did you mean --save_every?"),
        ("--lr=1e-3", "did you mean --learning_rate?"),
        ("--xyzzy", "--help lists them all"),
        (f"--model={tmp_path}/model-smal", f"did you mean {tmp_path}/model-small?"),
    ):
        with pytest.raises(SystemExit):
            config("justrl", wrong)
        assert said in capsys.readouterr().err


@dataclass
class Own(justrl.Config):
    one: float = 0.5  # a number
    bare: str = "after ####"
    pair: tuple = (0.9, 0.95)  # of any length
    layers: list = field(default_factory=lambda: [0, 1])
    cap: float | None = None  # perhaps
    tag: str | None = None
    dual_clip: float | None = None  # off
    place: Path = Path("there")
    power: Literal[1, 2] = 1
    quick: bool = True
    reset_every: int = 0  # elsewhere it needs a KL penalty


def test_fields_of_one_s_own_are_flags_of_any_type(monkeypatch, tmp_path):
    def parsed(*flags):
        monkeypatch.setattr(sys, "argv", ["mine.py", "--tiny", "--out", str(tmp_path), *flags])
        return parse(Own, {"tiny": justrl.TINY}, "")

    assert parsed().layers == [0, 1] and parsed().pair == (0.9, 0.95)
    given = "--one=1 --bare=x --pair=1,2 --cap=0.5 --place=here --power=2 --quick=false"
    config = parsed(*given.split(), "--layers=[3]", "--reset_every=9")
    assert (config.one, config.bare, config.pair, config.cap) == (1.0, "x", (1, 2), 0.5)
    assert (config.place, config.power, config.quick) == (Path("here"), 2, False)
    assert config.layers == [3]
    assert parsed("--cap=None").cap is None and parsed("--tag=5").tag == "5"
    for wrong in ("--cap=some", "--pair=a,b", "--power=3"):
        with pytest.raises(SystemExit):
            parsed(wrong)
    Run("mine", config)
    (tmp_path / "metrics.jsonl").write_text("")
    Run("mine", config)  # the same settings, as config.json has them


# --- the folder ---


def test_one_process_owns_a_folder(config, tmp_path):
    out = tmp_path / "with a blank"
    out.mkdir()
    other = os.open(out, os.O_RDONLY)  # as a second process would
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(Refused, match=r"another process is training in .*with a blank"):
        Run("justrl", config("justrl", "--out", out))
    os.close(other)
    Run("justrl", config("justrl", "--out", out))
    again = Run("justrl", config("justrl", "--out", out))  # the first one ended by an error, say
    assert again.out == out


def test_a_folder_in_which_nothing_was_trained_is_as_good_as_new(config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    Run("justrl", config("justrl", "--out", f"~/{tmp_path.name}", "--seed", 1))
    Run("justrl", config("justrl", "--out", tmp_path, "--seed", 2))
    (tmp_path / "metrics.jsonl").write_text("")
    sentence = r"other settings \(seed: 2 there, 1 here\); add --out .*-seed"
    with pytest.raises(Refused, match=sentence):
        Run("justrl", config("justrl", "--out", tmp_path, "--seed", 1))
    with pytest.raises(Refused, match=r"recipe: 'justrl' there, 'liteppo' here\)"):
        Run("liteppo", config("liteppo", "--out", tmp_path))


def test_a_config_made_in_python_is_checked_too(tmp_path):
    with pytest.raises(Refused, match="--temperature must be above 0"):
        Run("justrl", justrl.Config(**justrl.TINY | {"temperature": 0.0, "out": str(tmp_path)}))
    for name, recipe in RECIPES.items():
        with pytest.raises(Refused, match=r"needs a GPU: try --tiny \(in Python Config"):
            Run(name, recipe.Config(out=str(tmp_path)))


def test_windows_is_one_sentence(tmp_path):
    script = tmp_path / "windows.py"
    script.write_text("import os\ndel os.register_at_fork\nimport trainer.run.flags\n")
    done = python(script, cwd=ROOT)
    said = "Windows is not supported: run this in WSL, on Linux or on macOS"
    assert (done.returncode, done.stderr.strip()) == (1, said)


@pytest.mark.parametrize(
    "recipe, flags, said",
    [
        ("liteppo", ["--clip_high", 0.28], "--clip_high has no effect with one update a step"),
        ("liteppo", ["--clip_high", 0.28, "--updates_per_step", 4], ""),
        ("liteppo", [], ""),
        ("prorl", ["--kl_coefficient", 0, "--reset_every", 9], "--reset_every has no effect"),
        ("prorl", ["--kl_coefficient", 0, "--reset_every", 0], ""),
        ("justrl", ["--overlong_buffer", 9], "has no effect without --overlong_penalty"),
    ],
)
def test_a_flag_that_does_nothing_says_so(config, capsys, recipe, flags, said):
    config(recipe, *flags)
    seen = capsys.readouterr().err
    assert (said in seen) if said else not seen


def test_a_model_is_of_the_hub_or_a_revision_of_it_or_of_the_embedded_world(monkeypatch, config):
    monkeypatch.setattr(launch, "reach_hub", lambda: None)
    monkeypatch.setattr(launch.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **how: f"/hub/{name}/{how['revision']}"
    )
    model = config("justrl", "--model", "some/model@v2").model
    assert launch.model_folder(model) == "/hub/some/model/v2"
    assert launch.model_folder("some/model") == "some/model"
    with pytest.raises(Refused, match=r'--model tiny:huge: .*no tiny model "huge"'):
        launch.model_folder("tiny:huge")
