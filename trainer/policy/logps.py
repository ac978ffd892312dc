"""Log-probs from a causal language model's last hidden states, never all logits at once.

Architectures treat their logits differently: Granite and Cohere scale them, Gemma 2 caps them,
Phi's head has a bias. This file knows no architecture by name. It runs the model's own forward pass
with the head removed, which gives the head's input, and once with the head replaced by known
numbers, which shows what the model does to logits afterwards. `check` then compares with the
model's logits.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from trainer.errors import Refused

HUGE = 1e6  # a logit far above any soft cap
# What a model's own code may raise on plain token ids.
FAULTS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)


class Head:
    """logits = scale (h W^T + bias), then softcap tanh(logits / softcap) if there is a softcap.

    Raises Refused, in one sentence, for a model whose logits have another form.
    """

    def __init__(self, model: nn.Module):
        self.name = type(model).__name__
        with one_sentence(self.name):
            self.module = model.get_output_embeddings()
            weight = getattr(self.module, "weight", None)
            if weight is None or weight.ndim != 2:
                raise Unsupported(f"{self.name} is not supported: it has no single output head")
            accepted = inspect.signature(model.forward).parameters
            takes_all = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
            self.options = {"use_cache": False} if takes_all or "use_cache" in accepted else {}
            self.scale, self.softcap = 1.0, None
            if not weight.is_meta:
                self.scale, self.softcap = self._learn(model)

    @torch.no_grad()
    def _learn(self, model: nn.Module) -> tuple[float, float | None]:
        """Find scale and soft cap by what the model returns for known logits."""
        raw_V = torch.linspace(-50, 50, self.module.weight.shape[0])
        raw_V[:3] = torch.tensor([0.0, 1.0, HUGE])
        raw_V = raw_V.to(self.module.weight.device)
        ids_1_T = short_prompt(model)
        with replaced(self.module, lambda hidden: raw_V.expand(*hidden.shape[:-1], -1).clone()):
            logits_1_T_V = model(input_ids=ids_1_T, **self.options).logits.float()
        if logits_1_T_V.shape != (*ids_1_T.shape, len(raw_V)):
            raise Unsupported(f"{self.name} is not supported: its logits are not those of its head")
        own_V = logits_1_T_V[0, -1]
        slope, top = own_V[1].item(), own_V[2].item()
        # Some models round their logits to their own dtype.
        rounding = 1e-5 if self.module.weight.dtype == torch.float32 else 1e-2
        if math.isclose(top, HUGE * slope, rel_tol=rounding):
            scale, softcap = slope, None
        else:
            ratio = slope / top if top else math.nan
            scale, softcap = top * math.atanh(ratio) if abs(ratio) < 1 else math.nan, top
        known_V = raw_V.double() * scale
        known_V = known_V if softcap is None else softcap * torch.tanh(known_V / softcap)
        if not torch.allclose(known_V, own_V.double(), rtol=rounding, atol=rounding):
            raise Unsupported(
                f"{self.name} is not supported: it changes its logits in a way that is neither a "
                f"scale nor a soft cap"
            )
        return scale, softcap

    def inputs(self, model: nn.Module, ids_B_T: torch.Tensor, **options) -> torch.Tensor:
        """The head's input [B, T, d]: the model's own forward pass, up to its head.

        options: more arguments of the model, besides the ids.
        """
        seen = []

        def keep(hidden: torch.Tensor) -> torch.Tensor:
            seen.append(hidden)
            return hidden

        with replaced(self.module, keep):
            model(input_ids=ids_B_T, **self.options, **options)
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
        """Compare log-probs with the model's own on rank 0; tell all ranks the scale and soft cap.

        On a short prompt, alone and padded in a batch. Raises Refused if they differ.
        """
        if dist.get_rank() == 0:
            with one_sentence(self.name):
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
        logits_M_V = model(input_ids=ids_1_T, **self.options).logits[0, :-1].float()
        if not torch.isfinite(logits_M_V).all():
            raise Unsupported("the model's logits are not finite: its weights are damaged")
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
                raise Unsupported(f"{self.name} is not supported: {fault} ({gap:.2g} nats)")


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
        logps_M = torch.empty(hidden_M_d.shape[0], dtype=torch.float32, device=hidden_M_d.device)
        entropy_M = torch.empty_like(logps_M)
        for start in range(0, hidden_M_d.shape[0], chunk):
            rows = slice(start, start + chunk)
            log_probs, _ = _log_probs(hidden_M_d[rows], weight, bias, *form)
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
        grad_hidden_M_d = torch.empty_like(hidden_M_d)
        # float32: a bf16 sum over chunks would lose bits
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        if grad_logps_M is None:
            grad_logps_M = torch.zeros_like(entropy_M)
        for start in range(0, hidden_M_d.shape[0], ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            log_probs, slope = _log_probs(hidden_M_d[rows], weight, bias, *ctx.form)
            if grad_entropy_M is None:
                grad_logits = log_probs.exp_().mul_(-grad_logps_M[rows, None])
            else:  # dH / dlogit_v = -p_v (log p_v + H)
                probs = log_probs.exp()
                grad_logits = log_probs.add_(entropy_M[rows, None]).mul_(probs)
                grad_logits.mul_(-grad_entropy_M[rows, None])
                grad_logits -= probs.mul_(grad_logps_M[rows, None])
            # dlogp / dlogit = onehot - p
            grad_logits.scatter_add_(-1, targets_M[rows, None], grad_logps_M[rows, None])
            grad_logits.mul_(slope)
            if bias is not None:
                grad_bias += grad_logits.sum(dim=0)
            grad_logits = grad_logits.to(weight.dtype)
            grad_hidden_M_d[rows] = grad_logits @ weight
            if weight.dtype == torch.float32:
                # in place: no second V x d matrix
                grad_weight.addmm_(grad_logits.T, hidden_M_d[rows])
            else:
                grad_weight += grad_logits.T @ hidden_M_d[rows]
            del log_probs, slope, grad_logits
        if bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        return grad_hidden_M_d, grad_weight.to(weight.dtype), grad_bias, *[None] * 3


def _log_probs(hidden, weight, bias, temperature: float, scale: float, softcap: float | None):
    """[C, d], [V, d], [V] -> (log-probs, slope), float32 [C, V].

    slope: the derivative of the logits at that temperature by h W^T; a number without a soft cap.
    """
    slope = scale / temperature
    logits = hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)
    if scale != 1.0:
        logits = logits.float().mul_(scale)
    if softcap is not None:
        tanh = logits.float().div_(softcap).tanh_()
        slope = slope * (1 - tanh.square())
        logits = tanh.mul_(softcap)
    if temperature != 1.0:
        logits = logits.float().div_(temperature)
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32), slope  # always in float32


class Unsupported(Refused):
    """This trainer cannot handle the model; the message says why."""


@contextmanager
def one_sentence(name: str) -> Iterator[None]:
    """Turn an exception of the model's code on plain token ids into Refused.

    Errors that are not the model's fault (out of memory, a dead rank) pass through.
    """
    try:
        yield
    except (Unsupported, torch.OutOfMemoryError, dist.DistError):
        raise
    except FAULTS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Refused(f"{name} is not supported: it fails on a plain prompt ({reason})") from error


@contextmanager
def replaced(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Replace a module's forward inside a `with` block."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def short_prompt(model: nn.Module) -> torch.Tensor:
    """int64 [1, 8]: ids spread over the vocabulary."""
    embedding = model.get_input_embeddings().weight
    return torch.linspace(1, len(embedding) - 2, 8, device=embedding.device).long()[None]
