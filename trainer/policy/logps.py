"""The end of a causal language model: from the head's input to log-probs, without all logits.

Architectures differ in what they do to their logits. Granite and Cohere scale them, Gemma 2 caps
them, Phi's head has a bias. Nothing here is known by name. The model's own forward pass runs with
its head taken out, which yields the head's input; and with its head replaced by chosen numbers,
which shows what it does to logits afterwards. `check` then compares with the model's own logits.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from losses import token_logps
from trainer.errors import Refused

HUGE = 1e6  # a logit that any soft cap cuts off
# What a model's own code may raise on plain token ids.
FAULTS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)


class Head:
    """logits = scale (h W^T + bias), and then softcap tanh(logits / softcap) where there is one.

    Raises Refused, in one sentence, for a model that ends in another way.
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
        """The scale and the soft cap, from what the model makes of chosen logits."""
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

        options: what the model takes beside the ids.
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
        self,
        hidden_M_d: torch.Tensor,
        targets_M: torch.Tensor,
        temperature: float,
        entropy_grad: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probs [M], entropy [M]), see losses.token_logps."""
        return token_logps(
            hidden_M_d,
            self.module.weight,
            targets_M,
            temperature,
            entropy_grad=entropy_grad,
            bias=getattr(self.module, "bias", None),
            scale=self.scale,
            softcap=self.softcap,
        )

    def check(self, model: nn.Module) -> None:
        """Compare log-probs with the model's own on rank 0; tell all ranks the scale and soft cap.

        On a short prompt, alone and padded in a batch. Raises Refused where they differ.
        """
        if dist.get_rank() == 0:
            with one_sentence(self.name):
                self._check(model)
        learned = [
            self.scale,
            self.softcap,
        ]  # the other ranks may have no weights to learn from yet
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
        # Rounding grows with the logits; what this is to find is far larger.
        tolerance = 1e-5 * max(10.0, logits_M_V.abs().max().item())
        for ids_B_T, fault in (
            (ids_1_T, "its log-probs could not be computed as the model itself does"),
            (padded_2_T, "what comes after a token changes the token's log-prob"),
        ):
            hidden_M_d = self.inputs(model, ids_B_T)[0, : len(targets_M)]
            gap = (self.logps(hidden_M_d, targets_M, 1.0)[0] - own_M).abs().max().item()
            if not gap <= tolerance:
                raise Unsupported(f"{self.name} is not supported: {fault} ({gap:.2g} nats)")


class Unsupported(Refused):
    """What this file has to say of a model, in one sentence."""


@contextmanager
def one_sentence(name: str) -> Iterator[None]:
    """Turn what a model's code raises on plain token ids into a Refused error.

    Not what says nothing of the model: that memory has run out, or that another rank has ended.
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
    """Have another function in the place of a module's forward for the length of a `with` block."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def short_prompt(model: nn.Module) -> torch.Tensor:
    """int64 [1, 8]: ids from all over the vocabulary."""
    embedding = model.get_input_embeddings().weight
    return torch.linspace(1, len(embedding) - 2, 8, device=embedding.device).long()[None]
