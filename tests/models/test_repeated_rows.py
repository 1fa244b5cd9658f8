"""Products of equal rows taken once change nothing: against the plain pass, on every family, whatever is edited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mechicl.hooks import Hook, Patch, Probe, Run, run, running
from mechicl.models import equal_rows, hooked, repeated_rows
from mechicl.patches import IsolateLabels
from mechicl.probes import LabelAttention, SaliencyFlow
from mechicl.prompts import PromptBatch
from tests import tiny
from tests.engines.test_prefix import close, shared_prompts
from tests.random_prompts import random_prompts

PROBES: list[Probe] = [SaliencyFlow(), LabelAttention()]


class Rows:
    """What products were taken: the rows of each, those that were multiplied, and those that a gradient reached."""

    def __init__(self) -> None:
        self.forward: list[tuple[int, int]] = []
        self.backward: list[tuple[int, int]] = []


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Every product is worth it here."""
    seen, kind = Rows(), repeated_rows._Product
    forward, backward = kind.forward, kind.backward

    def counted(ctx: Any, x: Tensor, weight: Tensor, bias: Any, kept: Tensor, copies: Tensor) -> Tensor:
        seen.forward.append((len(x), len(kept)))
        return forward(ctx, x, weight, bias, kept, copies)

    def back(ctx: Any, gradient: Tensor) -> Any:
        seen.backward.append((len(gradient), int(gradient.any(1).sum())))
        return backward(ctx, gradient)

    monkeypatch.setattr(repeated_rows, "LEAST_SAVED", 0)
    monkeypatch.setattr(kind, "forward", staticmethod(counted))
    monkeypatch.setattr(kind, "backward", staticmethod(back))
    return seen


@contextmanager
def plainly() -> Iterator[None]:
    """Products of all rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "equal_rows", lambda tokens: nullcontext())
        yield


def equals_the_plain_pass(model: Any, patches: list[Patch], n_demonstrations: int = 60) -> Run:
    prompts = shared_prompts(n_demonstrations=n_demonstrations, seeds=(0, 1))
    ours = run(model, prompts, PROBES, patches)
    with plainly():
        plain = run(model, prompts, PROBES, patches)
    close(ours.label_logits, plain.label_logits)
    for probe in PROBES:
        for name, values in plain[probe].quantities.items():
            close(ours[probe][name], values)
    return ours


@pytest.mark.parametrize("patches", [[], [IsolateLabels((0, 1))]], ids=["plain", "patched"])
@pytest.mark.parametrize("family", [*tiny.cases, *(f"{family}/bridge" for family in tiny.new), "bloom"])
def test_it_equals_the_plain_pass(family: str, patches: list[Patch], rows: Rows) -> None:
    model = tiny.model(family)
    equals_the_plain_pass(model, patches)
    assert len(rows.forward) >= 4 * hooked(model).sizes.n_layers, "products went another way"
    assert all(kept < n / 3 for n, kept in rows.forward)
    assert rows.backward[-1][1] < rows.backward[-1][0], "gradients of padding were multiplied"


@dataclass(frozen=True)
class ShiftOne(Patch):
    """Adds to the last token that prompts share, in the first of them alone."""

    layer: int

    def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
        def shift(resid: Tensor, hook: Any) -> Tensor:
            added = torch.zeros_like(resid)
            added[0, 59, :9] = 3.0
            return resid + added

        return [(f"blocks.{self.layer}.hook_resid_pre", shift)]


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", tiny.FIVE)
def test_an_edit_of_one_prompt_is_noticed(family: str, layer: int, rows: Rows) -> None:
    model = tiny.model(family)
    ours = equals_the_plain_pass(model, [ShiftOne(layer)])
    assert bool(rows.forward) == bool(layer), "layers below the edit alone are shared"
    assert (ours.label_logits - equals_the_plain_pass(model, []).label_logits).abs().max() > 1e-3


class ByPlace(torch.nn.Module):
    """An MLP of the user's own, which gives every prompt of a batch something else."""

    def __init__(self, mlp: torch.nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(x * torch.arange(1, len(x) + 1)[:, None, None])
        return out


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_module_of_the_users_own_is_run(family: str) -> None:
    model, clean = tiny.fresh(family), tiny.model(family)
    block = model.blocks[1]
    block.mlp = ByPlace(block.mlp)
    ours = equals_the_plain_pass(model, [])
    assert (ours.label_logits - equals_the_plain_pass(clean, []).label_logits).abs().max() > 1e-3


def test_recomputed_blocks_give_the_same(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "prompts_at_once", lambda net, length: 0)
    equals_the_plain_pass(tiny.model("llama"), [])


def test_nothing_outlives_a_pass_that_fails(rows: Rows) -> None:
    class Stops(Patch):
        def hooks(self, model: Any, batch: PromptBatch) -> list[Hook]:
            def stop(resid: Tensor, hook: Any) -> Tensor:
                raise ValueError("stopped")

            return [("blocks.1.hook_resid_pre", stop)]

    prompts = shared_prompts(n_demonstrations=60)
    with pytest.raises(ValueError, match="stopped"):
        run(tiny.model("gpt2"), prompts, patches=[Stops()])
    n, width = len(rows.forward), tiny.D_MODEL
    batch = prompts.batch()
    torch.zeros(*batch.tokens.shape, width) @ torch.zeros(width, width)
    assert len(rows.forward) == n > 0


def test_what_is_no_row_of_every_token_is_multiplied_as_ever(rows: Rows) -> None:
    tokens, weight = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]), torch.randn(6, 5)
    x = torch.randn(1, 4, 6).expand(2, -1, -1).clone()
    x[1, 3] += 1
    with equal_rows(tokens):
        for left, right in ((x[:1], weight), (x, weight.expand(2, -1, -1)), (x, weight.clone().requires_grad_())):
            left @ right
        assert not rows.forward
        torch.testing.assert_close(x @ weight, torch.einsum("bpi,io->bpo", x, weight))
        assert rows.forward == [(8, 5)]
    assert isinstance(equal_rows(random_prompts(4).batch().tokens), nullcontext)


def test_first_occurrences_need_all_tokens_before_to_be_equal() -> None:
    tokens = torch.tensor([[1, 2, 3], [1, 4, 3], [1, 2, 5], [1, 2, 3]])
    assert repeated_rows.first_occurrences(tokens).tolist() == [0, 1, 2, 0, 4, 5, 0, 1, 8, 0, 1, 2]
