"""cpu.py: samples that come from the softmax they claim to come from."""

import random

import numpy as np
import pytest
import torch
from conftest import (
    EOS,
    PROMPTS,
    SEEDS,
    flat,
    greedy_by_transformers,
    load,
    same_samples,
    save_random_model,
    trainer_gap,
)
from transformers import AutoModelForCausalLM

from trainer.data import Sampling
from trainer.run.metrics import GAP_FATAL
from trainer.sampler.cpu import TransformersEngine, _draw, _truncate
from trainer.sampler.cpu_layers import PackedLinear


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("engine") / "model")


def engine_over(folder, vocabulary=40, stop_ids=(EOS,), **options):
    return TransformersEngine(folder, vocabulary, list(stop_ids), max_length=512, **options)


@pytest.fixture
def engine(folder):
    return engine_over(folder)


def next_token_probs(folder, prompt, temperature=1.0, top_p=1.0, top_k=-1):
    """Plainly, in float64: sort, keep the first k, then the fewest that hold top_p of the mass."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    probs = (logits / temperature).softmax(-1).tolist()
    likeliest = sorted(range(len(probs)), key=lambda i: -probs[i])
    kept = likeliest[:top_k] if top_k > 0 else likeliest
    mass, nucleus = 0.0, []
    for i in kept:
        if mass >= top_p * sum(probs[j] for j in kept):
            break
        nucleus.append(i)
        mass += probs[i]
    return {i: probs[i] / mass for i in nucleus}


def ids_of(samples):
    return [sample.response_ids.tolist() for sample in samples]


# --- what is sampled ---


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.2])
def test_the_trainer_computes_the_log_probs_that_the_engine_reports(folder, engine, temperature):
    samples = flat(engine.generate(PROMPTS, 4, SEEDS, Sampling(40, temperature)))
    assert len({len(sample.response_ids) for sample in samples}) > 1
    assert trainer_gap(load(folder), samples, temperature) < 1e-4
    assert trainer_gap(load(folder), samples, temperature + 0.2) > 0.05, "another one must show"


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [(1.0, 1.0, -1), (0.6, 1.0, -1), (1.3, 0.8, -1), (1.0, 1.0, 5), (0.99, 0.9, 12)],
)
def test_the_first_token_is_drawn_from_the_truncated_softmax(
    folder, engine, temperature, top_p, top_k
):
    count, sampling = 6000, Sampling(1, temperature, top_p, top_k)
    groups = engine.generate([PROMPTS[0]] * 1500, 4, list(range(1500)), sampling)
    expected = next_token_probs(folder, PROMPTS[0], temperature, top_p, top_k)
    seen = dict.fromkeys(expected, 0)
    for sample in flat(groups):
        assert sample.response_ids[0] in seen, "a token outside the nucleus"
        seen[sample.response_ids[0]] += 1
        assert sample.logps[0] == pytest.approx(np.log(expected[sample.response_ids[0]]), abs=1e-4)

    def chi_squared(probs):
        return sum((seen[i] - count * p) ** 2 / (count * p) for i, p in probs.items())

    freedom = len(expected) - 1
    assert freedom > 2
    assert chi_squared(expected) < freedom + 4 * (2 * freedom) ** 0.5
    if sampling == Sampling(1, 0.6):  # and the test would notice another temperature
        assert chi_squared(next_token_probs(folder, PROMPTS[0], 0.7)) > 4 * freedom


def test_a_prompt_does_not_notice_its_neighbours(engine):
    together = engine.generate(PROMPTS, 3, SEEDS, Sampling(80))
    lengths = sorted(len(sample.response_ids) for sample in flat(together))
    assert lengths[0] < 30 < lengths[-1], "some stop long before others"
    backwards = engine.generate(PROMPTS[::-1], 3, SEEDS[::-1], Sampling(80))
    same_samples(together, backwards[::-1])
    fewer = engine.generate(PROMPTS, 2, SEEDS, Sampling(80))
    same_samples([group[:2] for group in together], fewer)
    assert engine.prompts_at_once(4, 100) == engine.BATCH // 4
    engine.cache_room = 9.9 * 100 * engine.bytes_per_token
    assert [engine.prompts_at_once(n, 100) for n in (1, 4, 20)] == [9, 2, 1]
    same_samples(together, engine.generate(PROMPTS, 3, SEEDS, Sampling(80)))


def test_samples_are_a_function_of_their_seed(engine):
    one, again = (engine.generate(PROMPTS, 2, SEEDS, Sampling(20)) for _ in range(2))
    assert ids_of(flat(one)) == ids_of(flat(again))
    assert [s.logps.tolist() for s in flat(one)] == [s.logps.tolist() for s in flat(again)]
    other = engine.generate(PROMPTS, 2, [seed + 1 for seed in SEEDS], Sampling(20))
    assert all(a != b for a, b in zip(ids_of(flat(one)), ids_of(flat(other)), strict=True))
    assert ids_of(one[0])[0] != ids_of(one[0])[1]


def test_sampling_leaves_the_generators_alone(engine):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    engine.generate(PROMPTS, 2, SEEDS, Sampling(20))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_greedy_decoding_is_that_of_transformers(folder, engine):
    model = AutoModelForCausalLM.from_pretrained(folder)
    groups = engine.generate(PROMPTS, 2, SEEDS, Sampling(30, temperature=0))
    for prompt, group in zip(PROMPTS, groups, strict=True):
        expected = greedy_by_transformers(model, prompt, 30, EOS)
        assert ids_of(group) == [expected, expected]


@pytest.mark.parametrize("stops", [{EOS}, {EOS, 6, 7}, set()])
def test_a_stop_id_ends_a_response_belongs_to_it_and_tells_it_from_a_cut_one(folder, stops):
    engine = engine_over(folder, stop_ids=stops)
    samples = flat(engine.generate(PROMPTS * 20, 4, list(range(100)), Sampling(25)))
    for sample in samples:
        assert len(sample.logps) == len(sample.response_ids) <= 25
        assert not stops & set(sample.response_ids[:-1])
        assert sample.truncated == (sample.response_ids[-1] not in stops)
        assert len(sample.response_ids) == 25 or not sample.truncated
    assert {s.response_ids[-1] for s in samples if not s.truncated} == stops
    last = [s for s in samples if len(s.response_ids) == 25 and not s.truncated]
    assert last or not stops, "one as the last token allowed"
    assert any(sample.truncated for sample in samples)


def test_rows_beyond_the_tokenizer_are_never_sampled(folder):
    everything = flat(engine_over(folder).generate(PROMPTS, 8, SEEDS, Sampling(20)))
    assert max(i for sample in everything for i in sample.response_ids) >= 25
    restricted = flat(engine_over(folder, vocabulary=25).generate(PROMPTS, 8, SEEDS, Sampling(20)))
    assert max(i for sample in restricted for i in sample.response_ids) < 25


def test_raw_log_probs_are_those_of_the_untouched_softmax(folder):
    sampling = Sampling(20, 0.7, 0.9, 10)
    processed = flat(engine_over(folder).generate(PROMPTS, 4, SEEDS, sampling))
    raw = flat(engine_over(folder, raw_logps=True).generate(PROMPTS, 4, SEEDS, sampling))
    assert ids_of(processed) == ids_of(raw)
    assert trainer_gap(load(folder), raw, 1.0) < 1e-4
    gap = trainer_gap(load(folder), processed, 0.7)
    assert gap > 0.05, "the processed ones know top-p and top-k"


def test_a_prompt_with_its_response_over_the_limit_is_refused(engine):
    with pytest.raises(ValueError, match="515 tokens is over the engine's limit of 512"):
        engine.generate([PROMPTS[0]], 1, [0], Sampling(512))


# --- weights ---


def test_new_weights_are_copied_and_sampled_from(folder, engine, tmp_path):
    def samples():
        return flat(engine.generate(PROMPTS, 4, SEEDS, Sampling(20)))

    before, other = samples(), load(save_random_model(tmp_path / "other", seed=1))
    engine.load_weights(other)
    after = samples()
    assert trainer_gap(other, after, 1.0) < 1e-4
    assert trainer_gap(other, before, 1.0) > GAP_FATAL
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    same_samples([samples()], [after])
    engine.load_weights(load(folder))
    same_samples([samples()], [before])


# --- the parts that make it fast ---


def test_a_model_with_packed_weights_decodes_and_takes_new_weights_like_any_other(tmp_path):
    shape = {"vocab_size": 300, "hidden_size": 256, "layers": 1}
    some, other = (save_random_model(tmp_path / str(seed), seed=seed, **shape) for seed in (0, 1))
    engine = engine_over(some, vocabulary=300)
    packed = [module for module in engine.model.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == 6  # q, o, gate, up, down and the head; k and v are small
    samples = flat(engine.generate(PROMPTS, 4, SEEDS, Sampling(20)))
    assert trainer_gap(load(some), samples, 1.0) < 1e-4
    weight = load(other).model.lm_head.weight
    engine.load_weights(load(other))
    assert torch.equal(engine.model.lm_head.weight, weight)
    samples = flat(engine.generate(PROMPTS, 4, SEEDS, Sampling(20)))
    assert trainer_gap(load(other), samples, 1.0) < 1e-4


@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_truncation_is_that_of_a_full_sort(spread):
    scaled = spread * torch.randn(30, 3000, generator=torch.Generator().manual_seed(0))
    for top_p, top_k in ((0.3, -1), (0.95, -1), (0.9999, -1), (0.9, 50), (1.0, 7)):
        kept = _truncate(scaled, top_p, top_k)
        for row, got in zip(scaled.double(), kept, strict=True):
            order = row.argsort(descending=True)[: top_k if top_k > 0 else None]
            probs = row[order].softmax(-1)
            before = probs.cumsum(-1) - probs
            kept_ids = set(got.isfinite().nonzero()[:, 0].tolist())
            assert set(order[before < top_p - 1e-5].tolist()) <= kept_ids
            assert kept_ids <= set(order[before < top_p + 1e-5].tolist())
            assert torch.equal(got[sorted(kept_ids)], row[sorted(kept_ids)].float())


@pytest.mark.parametrize("vocabulary", [1, 7, 1024, 1025, 5000])
def test_a_draw_inverts_the_cdf(vocabulary):
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(400, vocabulary, generator=generator) ** 8
    probs[torch.rand(probs.shape, generator=generator) < 0.5] = 0  # as truncation leaves them
    probs[:, vocabulary // 2] = 0.01
    draws = torch.rand(400, generator=generator, dtype=torch.float64)
    draws[:3] = torch.tensor([0.0, 1 - 2**-53, 0.5])
    ids = _draw(probs, draws)
    assert (probs.gather(-1, ids[:, None]) > 0).all()
    cdf = probs.double().cumsum(-1)
    cdf = cdf / cdf[:, -1:]
    upper = cdf.gather(-1, ids[:, None])[:, 0]
    lower = upper - (probs.double() / probs.double().sum(-1, keepdim=True))[range(400), ids]
    assert (draws < upper + 1e-6).all()
    assert (draws > lower - 1e-6).all()
