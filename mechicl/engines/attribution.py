"""Attribution patching: the effect of every transplant to first order, for all of them at once (Nanda 2023).

It takes a forward pass of the source, and a forward and a backward pass of the base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechicl.doors import door
from mechicl.engines.patching import SITES, Site, check_as_long, check_sites, hook_points, keeping
from mechicl.hooks import Hook, Patch, Probe, Watch, run
from mechicl.metrics.objective import Objective
from mechicl.models import frozen, hooked
from mechicl.prompts import Prompt, PromptBatch


@door
def attributed(
    model: Any, base: Prompt, source: Prompt, kinds: Sequence[Sequence[int]], *,
    sites: Sequence[Site] = SITES, objective: Objective = Objective("logit_difference"),  # noqa: B008
) -> Float[Tensor, "site layer kind"]:  # fmt: skip
    """The effect of each transplant on the base prompt's objective to first order: gradient times difference.

    Args:
        model: any model with the hook points of the sites.
        base: the prompt in which the gradient is taken.
        source: a prompt of the same length as the base.
        kinds: the positions of each kind of token, -1 for the target.
        sites: what is transplanted, at all positions of a kind at once.
        objective: a scalar at the target of the base; the gold class is the base's.

    Raises:
        InputError: the prompts differ in length, or the model lacks one of the hook points.
    """
    net = hooked(model)
    check_as_long(base, source)
    check_sites(net, sites)
    states: dict[str, Tensor] = {}
    with torch.no_grad(), frozen(net), net.hooks(keeping(net, states)):
        net.forward(torch.tensor([source.tokens], device=net.device))
    total = torch.zeros(len(sites), net.sizes.n_layers, len(kinds), device=net.device)
    probe = _At(objective, total)
    run(model, [base], [probe], [_Differences(states, tuple(map(tuple, kinds)), tuple(sites), total)], progress=None)
    return total.cpu()


@dataclass(frozen=True, eq=False)
class _Differences(Patch):
    """Sum gradient times difference into `total` without changing anything.

    It is a patch because a TransformerBridge shows keys and values as copies: only a value that a hook returns takes
    part in the pass, and so has a gradient.
    """

    states: Mapping[str, Tensor]
    kinds: tuple[tuple[int, ...], ...]
    sites: tuple[Site, ...]
    total: Float[Tensor, "site layer kind"]

    def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
        member = torch.zeros(batch.tokens.shape[1], len(self.kinds), device=batch.device)
        for kind, positions in enumerate(self.kinds):
            member[list(positions), kind] = 1

        def see(name: str, site: int, layer: int) -> Callable[..., Tensor]:
            def watch(value: Tensor, hook: Any) -> Tensor:
                difference = (self.states[name] - value.detach()[0]).float().flatten(1)

                def take(gradient: Tensor) -> None:
                    self.total[site, layer] += (gradient[0].float().flatten(1) * difference).sum(1) @ member

                if value.requires_grad:  # not in the first of two passes, if layers are computed again for the gradient
                    value.register_hook(take)  # type: ignore[no-untyped-call]
                return value

            return watch

        points = hook_points(hooked(model), self.sites).items()
        return [(name, see(name, self.sites.index(site), layer)) for name, (site, layer) in points]


@dataclass(frozen=True, eq=False)
class _At(Probe):
    """Requests the gradient of an objective."""

    loss: Objective
    total: Tensor
    axes = ("prompt",)
    units = {"largest": "of the objective"}

    @property
    def objective(self) -> Objective:
        return self.loss

    def watch(self, model: Any, batch: PromptBatch) -> Watch:
        return Watch([], lambda: self.total.abs().amax()[None])
