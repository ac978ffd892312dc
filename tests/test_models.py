"""Models of every architecture: log-probs, sampling, checkpoints, tokenizers and limits; or one clear sentence."""

import json
import shutil

import pytest
import torch
from architectures import ALL, VOCABULARY, build, byte_tokenizer, tiny_config
from conftest import ENVIRONMENT, ROOT, python, random_rollouts
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import losses
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.data import Sampling
from trainer.models import check_limits, end_tokens, load_model, load_tokenizer
from trainer.policy import full, load_policy, micro_batches, response_mask
from trainer.rollout import make_engine, self_check

CPU = torch.device("cpu")
# In the default run: dense, MoE, linear attention, state spaces; tied and untied; with a bias, scale or soft cap.
CHOSEN = """apertus arcee bamba bitnet bloom codegen cohere cohere2 ctrl deepseek_v3 diffllama ernie4_5 exaone4 falcon
falcon_mamba gemma gemma2 gemma3_text glm4 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granitemoe helium
jamba lfm2 llama mamba2 minicpm3 ministral mistral mixtral mpt nemotron olmo2 olmoe opt persimmon phi phi3 qwen2
qwen3 qwen3_5_text qwen3_moe recurrent_gemma smollm3 stablelm starcoder2""".split()


@pytest.fixture
def save(tmp_path):
    """save(name) -> the folder of a tiny random model of that architecture, with a byte tokenizer."""

    def save(name, **changes) -> str:
        folder = tmp_path / name
        build(name, **changes).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        return str(folder)

    return save


def batches_of(rollouts, budget=60):
    advantages = torch.randn(len(rollouts), generator=torch.Generator().manual_seed(1))
    weights = losses.token_weights(response_mask(rollouts), "token")
    return micro_batches(rollouts, advantages, weights, budget=budget, device=CPU)


def own_logps(model, micro, temperature):
    """The model's own log-probs of a micro-batch's response tokens, row by row without padding."""
    rows = []
    for ids_T, mask_T in zip(micro.ids_B_T, micro.mask_B_T, strict=True):
        end = int(mask_T.nonzero().max()) + 1
        logits = model(input_ids=ids_T[None, :end], use_cache=False).logits[0, :-1].float()
        logps = (logits / temperature).log_softmax(dim=-1)
        targets = ids_T[1:end]
        rows.append(logps[torch.arange(end - 1), targets][mask_T[1:end]])
    return torch.cat(rows)


def gradients(model, logps, micro):
    (micro.weights_M * micro.advantages_M * logps).sum().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def walk(folder, out, sampling=True):
    """Everything that must hold for one architecture."""
    tokenizer = load_tokenizer(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    checkpointing = plain.supports_gradient_checkpointing
    policy = load_policy(folder, CPU, torch.float32, checkpointing)

    # Log-probs and gradients are those of the model's own logits, with blocks recomputed.
    (micro,) = batches_of(random_rollouts(3, vocab_size=256, shortest=4), budget=1000)
    logps, _ = policy(micro, 0.8)
    own = own_logps(plain, micro, 0.8)
    torch.testing.assert_close(logps, own, atol=1e-5, rtol=1e-6)
    got, want = gradients(policy.model, logps, micro), gradients(plain, own, micro)
    assert got.keys() == want.keys()
    for name in want:
        scale = max(want[name].norm().item(), 1e-3)
        assert (got[name] - want[name]).norm() < 1e-3 * scale, name

    # The sampling engine agrees, follows a push, and stops where it must.
    if sampling:
        engine = make_engine("transformers", folder, tokenizer, max_length=32, dtype=torch.float32)
        self_check(engine, policy, [5, 6, 7])
        groups = engine.generate([[5, 6, 7], [70, 80]], 2, [1, 2], Sampling(8, 0.8))
        rollouts = [rollout for group in groups for rollout in group]
        for micro in batches_of(rollouts):
            gap = (policy(micro, 0.8)[0] - micro.engine_logps_M).abs().mean()
            assert gap < 1e-4

    # What a checkpoint holds comes back, and it is a model folder.
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    (micro,) = batches_of(random_rollouts(3, vocab_size=256), budget=1000)
    (micro.weights_M * policy(micro, 1.0)[0]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    trained = policy(micro, 1.0)[0].detach()
    save_checkpoint(out, {"step": 1, "data": ""}, policy, tokenizer, optimizer, keep=1)
    checkpoint = out / "checkpoints" / "step_000001"
    resumed = load_policy(folder, CPU, torch.float32, gradient_checkpointing=False)
    again = torch.optim.AdamW(resumed.parameters(), lr=1e-2)
    load_checkpoint(checkpoint, {"step": 0, "data": ""}, resumed, again)
    assert (resumed(micro, 1.0)[0] - trained).abs().max() < 1e-6
    assert len(again.state) == len(optimizer.state)
    reopened = load_policy(str(checkpoint), CPU, torch.float32, gradient_checkpointing=False)
    assert (reopened(micro, 1.0)[0] - trained).abs().max() < 1e-6


@pytest.mark.parametrize("name", CHOSEN)
def test_an_architecture_trains_samples_and_resumes(save, tmp_path, name):
    walk(save(name), tmp_path / "run")
