"""Log-probs from a causal language model's last hidden states, never all logits at once.

Architectures treat their logits differently: Granite and Cohere scale them, Gemma 2 caps them,
Phi's head has a bias. This file knows no architecture by name. A hook on the head takes its input
out of the model's own forward pass. Once, another hook puts known numbers in the place of the
head's output, which shows what the model does to logits afterwards. `check` then compares with the
model's logits.
"""

import math

import torch
import torch.distributed as dist
from torch import nn

from trainer.errors import Refused
from trainer.policy.pretrained import or_refuse

HUGE = 1e6  # a logit far above any soft cap


class Head:
    """logits = scale (h W^T + bias), then softcap tanh(logits / softcap) if there is a softcap.

    Raises Refused, in one sentence, for a model whose logits have another form.
    """

    def __init__(self, model: nn.Module):
        with plain_prompt(model):
            self.module = model.get_output_embeddings()
            weight = getattr(self.module, "weight", None)
            if weight is None or weight.ndim != 2:
                raise unsupported(model, "it has no single output head")
            self.scale, self.softcap = 1.0, None
            if not weight.is_meta:
                self.scale, self.softcap = self._learn(model)

    @torch.no_grad()
    def _learn(self, model: nn.Module) -> tuple[float, float | None]:
        """Find scale and soft cap from what the model returns for known logits."""
        raw_V = torch.linspace(-50, 50, self.module.weight.shape[0])
        raw_V[:3] = torch.tensor([0.0, 1.0, HUGE])
        raw_V = raw_V.to(self.module.weight.device)
        ids_1_T = short_prompt(model)

        def known(module, inputs, logits):
            return raw_V.expand(*logits.shape[:-1], -1).clone()

        with self.module.register_forward_hook(known):
            logits_1_T_V = model(input_ids=ids_1_T, use_cache=False).logits.float()
        if logits_1_T_V.shape != (*ids_1_T.shape, len(raw_V)):
            raise unsupported(model, "its logits are not those of its head")
        own_V = logits_1_T_V[0, -1].double()
        slope, top = own_V[1], own_V[2]
        scale, softcap = slope.item(), None
        # Some models round their logits to their own dtype.
        rounding = 1e-5 if self.module.weight.dtype == torch.float32 else 1e-2
        if not math.isclose(top.item(), HUGE * scale, rel_tol=rounding):
            scale, softcap = (top * torch.atanh(slope / top)).item(), top.item()
        known_V = raw_V.double() * scale
        known_V = known_V if softcap is None else softcap * torch.tanh(known_V / softcap)
        if not torch.allclose(known_V, own_V, rtol=rounding, atol=rounding):
            how = "it changes its logits in a way that is neither a scale nor a soft cap"
            raise unsupported(model, how)
        return scale, softcap

    def inputs(self, model: nn.Module, ids_B_T: torch.Tensor, **options) -> torch.Tensor:
        """The head's input [B, T, d]: the model's own forward pass, up to its head.

        options: more arguments of the model, besides the ids.
        """
        seen = []

        def keep(module, inputs):
            seen.append(inputs[0])
            return inputs[0][..., :0, :]  # the head gets no position and makes no logits

        with self.module.register_forward_pre_hook(keep):
            model(input_ids=ids_B_T, use_cache=False, **options)
        (hidden_B_T_d,) = seen
        return hidden_B_T_d

    def logps(
        self, hidden_M_d: torch.Tensor, targets_M: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probs [M], entropy [M]), see token_logps."""
        weight, bias = self.module.weight, getattr(self.module, "bias", None)
        return token_logps(
            hidden_M_d, weight, targets_M, temperature, bias, self.scale, self.softcap
        )

    def check(self, model: nn.Module) -> None:
        """Compare log-probs with the model's own; then tell all ranks the scale and soft cap.

        Rank 0 compares those of a short prompt, alone and padded in a batch. Raises Refused if
        they differ.
        """
        if dist.get_rank() == 0:
            with plain_prompt(model):
                self._check(model)
        # Other ranks may have no weights yet.
        learned = [self.scale, self.softcap]
        dist.broadcast_object_list(learned, src=0, device=torch.device("cpu"))
        self.scale, self.softcap = learned

    @torch.no_grad()
    def _check(self, model: nn.Module) -> None:
        ids_1_T = short_prompt(model)
        targets_M = ids_1_T[0, 1:]
        padded_2_T = torch.cat([ids_1_T, torch.zeros_like(ids_1_T)], dim=1).repeat(2, 1)
        padded_2_T[1, :-1] = padded_2_T[1, 1:].clone()
        logits_M_V = model(input_ids=ids_1_T, use_cache=False).logits[0, :-1].float()
        if not torch.isfinite(logits_M_V).all():
            raise Refused("the model's logits are not finite: its weights are damaged")
        own_M = logits_M_V.log_softmax(dim=-1).gather(-1, targets_M[:, None])[:, 0]
        # Rounding grows with the logits; real differences are far larger.
        tolerance = 1e-5 * max(10.0, logits_M_V.abs().max().item())
        for ids_B_T, fault in (
            (ids_1_T, "its log-probs could not be computed as the model itself does"),
            (padded_2_T, "what comes after a token changes the token's log-prob"),
        ):
            hidden_M_d = self.inputs(model, ids_B_T)[0, : len(targets_M)]
            gap = (self.logps(hidden_M_d, targets_M, 1.0)[0] - own_M).abs().max().item()
            if not gap <= tolerance:
                raise unsupported(model, f"{fault} ({gap:.2g} nats)")


def plain_prompt(model: nn.Module):
    """A `with` block in which the model's own code runs on plain token ids; see or_refuse."""
    return or_refuse(f"{type(model).__name__} is not supported, as it fails on a plain prompt")


def unsupported(model: nn.Module, why: str) -> Refused:
    return Refused(f"{type(model).__name__} is not supported: {why}")


def short_prompt(model: nn.Module) -> torch.Tensor:
    """int64 [1, 8]: ids spread over the vocabulary."""
    embedding = model.get_input_embeddings().weight
    return torch.linspace(1, len(embedding) - 2, 8, device=embedding.device).long()[None]


def token_logps(
    hidden_M_d: torch.Tensor,
    weight_V_d: torch.Tensor,
    targets_M: torch.Tensor,
    temperature: float = 1.0,
    bias: torch.Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    chunk: int = 512,
) -> tuple[torch.Tensor, torch.Tensor]:
    """losses.token_logps of a head's logits, from the head's input and weights.

        z = scale (h W^T + bias), then softcap tanh(z / softcap) if there is a softcap

    hidden_M_d: [M, d]; weight_V_d: [V, d]; targets_M: int64 [M]; bias: [V]. Returns
    (logps [M], entropy [M]), both in nats and float32, and both with gradients.

    At most chunk x V logits exist at any time, in the forward and in the backward pass. With a
    vocabulary of 152k, all float32 logits of one answer of 16k tokens would take 10 GB. The cost is
    that the backward pass computes the logits a second time.
    """
    form = temperature, scale, softcap
    return _TokenLogps.apply(hidden_M_d, weight_V_d, bias, targets_M, form, chunk)


class _TokenLogps(torch.autograd.Function):
    """token_logps with a backward pass that recomputes each chunk's softmax.

    Autograd would keep the softmax of every chunk until the backward pass. Two shorter ways are
    worse: torch.utils.checkpoint over chunks is slower and holds one more V x d matrix, and torch's
    linear_cross_entropy returns bfloat16 log-probs for a bfloat16 head, too coarse for ratios.
    """

    @staticmethod
    def forward(ctx, hidden_M_d, weight, bias, targets_M, form, chunk):
        logps_M = torch.empty(len(hidden_M_d), dtype=torch.float32, device=hidden_M_d.device)
        entropy_M = torch.empty_like(logps_M)
        for start in range(0, len(hidden_M_d), chunk):
            rows = slice(start, start + chunk)
            log_probs = _log_probs(hidden_M_d[rows], weight, bias, *form)[0]
            logps_M[rows] = log_probs.gather(-1, targets_M[rows, None]).squeeze(-1)
            entropy_M[rows] = -log_probs.exp().mul_(log_probs).sum(dim=-1)
            del log_probs  # or it would stay in memory beyond this chunk
        ctx.save_for_backward(hidden_M_d, weight, bias, targets_M, entropy_M)
        ctx.form, ctx.chunk = form, chunk
        # An output that the loss does not use then gets None as its gradient, which costs nothing.
        ctx.set_materialize_grads(False)
        return logps_M, entropy_M

    @staticmethod
    def backward(ctx, grad_logps_M, grad_entropy_M):
        hidden_M_d, weight, bias, targets_M, entropy_M = ctx.saved_tensors
        temperature, scale, softcap = ctx.form
        grad_hidden_M_d = torch.empty_like(hidden_M_d)
        # In float32, because a bf16 sum over chunks would lose bits. Autograd casts them back.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        if grad_logps_M is None:
            grad_logps_M = torch.zeros_like(entropy_M)
        for start in range(0, len(hidden_M_d), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            log_probs, logits = _log_probs(hidden_M_d[rows], weight, bias, *ctx.form)
            if grad_entropy_M is None:
                grad_logits = log_probs.exp_().mul_(-grad_logps_M[rows, None])
            else:  # dH / dlogit_v = -p_v (log p_v + H)
                probs = log_probs.exp()
                grad_logits = log_probs.add_(entropy_M[rows, None]).mul_(probs)
                grad_logits.mul_(-grad_entropy_M[rows, None])
                grad_logits -= probs.mul_(grad_logps_M[rows, None])
            # dlogp / dlogit = onehot - p
            grad_logits.scatter_add_(-1, targets_M[rows, None], grad_logps_M[rows, None])
            if softcap is not None:  # the slope of tanh is 1 - tanh^2
                grad_logits.mul_(1 - logits.mul_(temperature / softcap).square_())
            grad_logits = grad_logits.mul_(scale / temperature).to(weight.dtype)
            del logits, log_probs  # their memory is used again below
            if bias is not None:
                grad_bias += grad_logits.sum(dim=0, dtype=torch.float32)
            grad_hidden_M_d[rows] = grad_logits @ weight
            if weight.dtype == torch.float32:
                # in place: no second V x d matrix
                grad_weight.addmm_(grad_logits.T, hidden_M_d[rows])
            else:
                grad_weight += grad_logits.T @ hidden_M_d[rows]
            del grad_logits
        return grad_hidden_M_d, grad_weight, grad_bias, *[None] * 3


def _log_probs(hidden, weight, bias, temperature: float, scale: float, softcap: float | None):
    """[C, d], [V, d], [V] -> (log-probs, logits at that temperature), [C, V]; see token_logps."""
    logits = nn.functional.linear(hidden, weight, bias)
    if scale != 1.0:
        logits = logits.float().mul_(scale)
    if softcap is not None:
        logits = logits.float().div_(softcap).tanh_().mul_(softcap)
    if temperature != 1.0:
        logits = logits.float().div_(temperature)
    return logits.log_softmax(dim=-1, dtype=torch.float32), logits
