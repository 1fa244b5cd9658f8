"""What mechicl measures, written once more in plain transformers and torch: the oracle of these tests.

Each function stands beside the equation or section of its paper and uses nothing of mechicl; of a prompt it reads token
ids and positions. The model is a LlamaForCausalLM with eager attention whose parameters are frozen. Prompts and texts go
through it one at a time, whole and without padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward, repeat_kv

# Label Words are Anchors -----------------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """One prompt's forward and backward pass."""

    logits: Float[Tensor, "d_vocab"]
    """At q."""
    attention: Float[Tensor, "layer head query key"]
    gradient: Float[Tensor, "layer head query key"]
    """Of the cross-entropy (nats) over the label words at q with respect to `attention`."""


def saliency_pass(hf: Any, prompt: Any) -> Pass:
    """A and dL/dA of every layer (section 2.1); the loss is taken over the label words alone, with the gold class."""
    embedded = hf.get_input_embeddings()(torch.tensor([prompt.tokens])).requires_grad_()
    out = hf(inputs_embeds=embedded, output_attentions=True, use_cache=False, logits_to_keep=1)
    logits = out.logits[0, -1]
    loss = F.cross_entropy(logits[list(prompt.label_ids)], torch.tensor(prompt.gold))
    gradient = torch.autograd.grad(loss, out.attentions)
    return Pass(logits.detach(), torch.cat(out.attentions).detach(), torch.cat(gradient))


def flows(saliency: Float[Tensor, "layer query key"], prompt: Any) -> Float[Tensor, "layer metric"]:
    """S_wp, S_pq and S_ww (Eq. 2-4): means over the edges into p, from p into q, and all others up to q."""
    q, anchors = prompt.target, list(prompt.anchors)
    edges = torch.ones(saliency.shape[1:]).tril(-1).bool()
    wp, pq = torch.zeros_like(edges), torch.zeros_like(edges)
    wp[anchors], pq[q, anchors] = edges[anchors], True
    return torch.stack([saliency[:, chosen].mean(1) for chosen in (wp, pq, edges & ~wp & ~pq)], 1)


def label_attention(attention: Float[Tensor, "layer head query key"], prompt: Any) -> Float[Tensor, "layer head class"]:
    """A(q, p) of each class's label word (section 2.3); one demonstration per class."""
    of_class = [prompt.anchors[prompt.anchor_classes.index(c)] for c in range(len(prompt.label_ids))]
    return attention[:, :, prompt.target, of_class]


@torch.no_grad()
def logits_at_q(hf: Any, prompt: Any) -> Float[Tensor, "d_vocab"]:
    """Next-token logits at q."""
    return hf(torch.tensor([prompt.tokens]), use_cache=False, logits_to_keep=1).logits[0, -1]


@contextmanager
def isolated(hf: Any, layers: Sequence[int], positions: Sequence[int]) -> Iterator[None]:
    """These positions attend to nothing before them, in these layers (section 2.2; before the softmax, as the code)."""

    def cut(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"].clone()
        for position in positions:
            mask[..., position, :position] = -math.inf
        return args, {**kwargs, "attention_mask": mask}

    handles = [hf.model.layers[i].self_attn.register_forward_pre_hook(cut, with_kwargs=True) for i in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def logits_on_kept(hf: Any, prompt: Any, kept: Sequence[int], first: int) -> Float[Tensor, "d_vocab"]:
    """Logits at q where only the keys and values of `kept` are left of the demonstrations (section 3.2).

    They were computed with the whole context before them. The query stands at positions `first`, `first` + 1, ...
    """
    whole = hf(torch.tensor([prompt.tokens[: prompt.query_start]]), use_cache=True).past_key_values
    cache = DynamicCache()
    for number, layer in enumerate(whole.layers):
        cache.update(layer.keys[:, :, kept], layer.values[:, :, kept], number)
    query = torch.tensor([prompt.tokens[prompt.query_start :]])
    places = torch.arange(first, first + query.shape[1])[None]
    return hf(query, position_ids=places, past_key_values=cache, logits_to_keep=1).logits[0, -1]


@contextmanager
def edited_attention(hf: Any, edit: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Every layer's attention weights [batch head query key] pass through `edit(layer, weights)` after the softmax."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **more: Any
    ) -> tuple[Tensor, Tensor]:
        _, weights = eager_attention_forward(module, query, key, value, attention_mask, scaling)
        weights = edit(module.layer_idx, weights)
        mixed = weights @ repeat_kv(value, module.num_key_value_groups)
        return mixed.transpose(1, 2).contiguous(), weights

    AttentionInterface.register("edited", attend)
    AttentionMaskInterface.register("edited", eager_mask)
    hf.set_attn_implementation("edited")
    try:
        yield
    finally:
        hf.set_attn_implementation("eager")


class Steps(NamedTuple):
    """What happens in each step of re-weighting."""

    beta: Float[Tensor, "step layer head class"]
    """After the step."""
    gradient: Float[Tensor, "step layer head class"]
    loss: Float[Tensor, "step"]
    """In nats, before the step."""


def reweight(hf: Any, prompts: Sequence[Any], lr: float = 0.01, renormalised: bool = False) -> Steps:
    """A step of Adam on each prompt (section 3.1, appendix H).

    A(q, p) is multiplied by exp(beta) of its layer, head and class after the softmax (Eq. 9); `renormalised` divides
    the row by its sum, as beta added to the scores would.
    """
    sizes = hf.config.num_hidden_layers, hf.config.num_attention_heads, len(prompts[0].label_ids)
    beta = torch.zeros(sizes, requires_grad=True)
    adam, steps = torch.optim.Adam([beta], lr=lr), []
    for prompt in prompts:
        q, anchors, classes = prompt.target, list(prompt.anchors), list(prompt.anchor_classes)

        def edit(layer: int, weights: Tensor, q: int = q, anchors: Any = anchors, classes: Any = classes) -> Tensor:
            factor = torch.ones_like(weights)
            factor[0, :, q, anchors] = beta[layer][:, classes].exp()
            return F.normalize(weights * factor, p=1, dim=-1) if renormalised else weights * factor

        with edited_attention(hf, edit):
            logits = hf(torch.tensor([prompt.tokens]), use_cache=False, logits_to_keep=1).logits[0, -1]
            loss = F.cross_entropy(logits[list(prompt.label_ids)], torch.tensor(prompt.gold))
        adam.zero_grad()
        loss.backward()
        adam.step()
        assert beta.grad is not None
        steps.append((beta.detach().clone(), beta.grad.clone(), loss.detach()))
    return Steps(*map(torch.stack, zip(*steps, strict=True)))


def jaccard(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Word loyalty of one prompt (section 2.2): of two sets of tokens, the share of the union that both have."""
    return len({*ours} & {*theirs}) / len({*ours} | {*theirs})


# Stages of Inference ---------------------------------------------------------------------------------------------------


class TextPass(NamedTuple):
    """One sequence's forward pass."""

    logits: Float[Tensor, "pos d_vocab"]
    attention: Float[Tensor, "layer head query key"]
    residual: Float[Tensor, "point pos d_model"]
    """Before each layer, and after the last."""
    attention_out: Float[Tensor, "layer pos d_model"]
    mlp_out: Float[Tensor, "layer pos d_model"]


@torch.no_grad()
def text_pass(hf: Any, tokens: Sequence[int]) -> TextPass:
    """Everything that the measures below read of a sequence."""
    seen: dict[str, list[Tensor]] = {"layer": [], "self_attn": [], "mlp": []}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen[name].append(output[0] if isinstance(output, tuple) else output)

    layers = hf.model.layers
    handles = [layer.register_forward_hook(keep("layer")) for layer in layers]
    handles += [
        getattr(layer, name).register_forward_hook(keep(name)) for layer in layers for name in ("self_attn", "mlp")
    ]
    embedded = hf.get_input_embeddings()(torch.tensor([tokens]))
    out = hf(inputs_embeds=embedded, output_attentions=True, use_cache=False)
    for handle in handles:
        handle.remove()
    residual = torch.cat([embedded, *seen["layer"]])
    return TextPass(
        out.logits[0], torch.cat(out.attentions), residual, torch.cat(seen["self_attn"]), torch.cat(seen["mlp"])
    )


@torch.no_grad()
def logits_without(hf: Any, tokens: list[int], layer: int, positions: slice) -> Float[Tensor, "pos d_vocab"]:
    """Logits of a model whose layer adds nothing to the residual stream at some positions."""

    def undo(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        before, after = (args[0] if args else kwargs["hidden_states"]), torch.as_tensor(output).clone()
        after[:, positions] = before[:, positions]
        return after

    handle = hf.model.layers[layer].register_forward_hook(undo, with_kwargs=True)
    logits = hf(torch.tensor([tokens]), use_cache=False).logits[0]
    handle.remove()
    return logits


@torch.no_grad()
def logits_without_head(hf: Any, tokens: list[int], layer: int, head: int) -> Float[Tensor, "pos d_vocab"]:
    """Logits of a model in which a head's average of values is zero before the output projection reads it."""

    def silence(module: Any, args: Any) -> Any:
        heads = args[0].clone().unflatten(-1, (hf.config.num_attention_heads, -1))
        heads[:, :, head] = 0
        return (heads.flatten(-2),)

    handle = hf.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(silence)
    logits = hf(torch.tensor([tokens]), use_cache=False).logits[0]
    handle.remove()
    return logits


@torch.no_grad()
def logits_in_order(hf: Any, tokens: Sequence[int], order: Sequence[int]) -> Float[Tensor, "pos d_vocab"]:
    """Logits with the layers run in this order (section 4.1): a dropped layer is missing, swapped ones change places."""
    layers = hf.model.layers
    hf.model.layers = torch.nn.ModuleList(layers[i] for i in order)
    try:
        return hf(torch.tensor([tokens]), use_cache=False).logits[0]
    finally:
        hf.model.layers = layers


def kl(logits: Float[Tensor, "*pos d_vocab"], others: Float[Tensor, "*pos d_vocab"]) -> Float[Tensor, "*pos"]:
    """KL(softmax of the first || softmax of the second) in nats."""
    log_p, log_q = (x.double().log_softmax(-1) for x in (logits, others))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@torch.no_grad()
def lens(hf: Any, residual: Float[Tensor, "*pos d_model"], normed: bool = True) -> Float[Tensor, "*pos d_vocab"]:
    """Logits of a residual read as if it were the last (section 5.2): final norm, then unembedding."""
    return hf.lm_head(hf.model.norm(residual) if normed else residual)


def lens_measures(
    logits: Float[Tensor, "pos d_vocab"], final: Float[Tensor, "pos d_vocab"]
) -> Float[Tensor, "measure pos"]:
    """Entropy of a lens's prediction in bits, KL(final || lens) and KL(lens || final) in nats."""
    log_q, log_p = (x.double().log_softmax(-1) for x in (logits, final))
    p, q = log_p.exp(), log_q.exp()
    return torch.stack(
        [-(q * log_q).sum(-1) / math.log(2), (p * (log_p - log_q)).sum(-1), (q * (log_q - log_p)).sum(-1)]
    )


def previous_mass(
    attention: Float[Tensor, "layer head query key"], k: int = 5, nearest: int = 1
) -> Float[Tensor, "layer head"]:
    """Attention to the previous k tokens (section 5.1), averaged over queries whose k previous tokens follow position 0.

    `nearest` is the distance of the first of the k keys: 0 would count the query itself.
    """
    queries = range(k + 1, attention.shape[-1])
    masses = [attention[..., q, q - nearest - k + 1 : q - nearest + 1].sum(-1) for q in queries]
    return torch.stack(masses).double().mean(0)


def norms(seen: TextPass, first: int = 1) -> dict[str, Float[Tensor, "layer"]]:
    """What layers add (section 5.4), averaged over positions from `first` on; and block influence, 1 - cosine."""
    before, after = seen.residual[:-1, first:].double(), seen.residual[1:, first:].double()
    attention, mlp = (x[:, first:].double().norm(dim=-1) for x in (seen.attention_out, seen.mlp_out))
    length = before.norm(dim=-1)
    cosine = (before * after).sum(-1) / length / after.norm(dim=-1)
    found = {"attn_norm": attention, "mlp_norm": mlp, "resid_pre_norm": length, "attn_ratio": attention / length,
             "mlp_ratio": mlp / length, "block_influence": 1 - cosine}  # fmt: skip
    return {name: values.mean(1) for name, values in found.items()}


@torch.no_grad()
def neuron_moments(
    hf: Any, layer: int, neurons: slice = slice(None), centred: bool = True
) -> dict[str, Float[Tensor, "neuron"]]:
    """Mean, variance, skewness and kurtosis of cos(w_out, W_U) over the vocabulary (section 5.3).

    The final norm's gain is folded into W_U, and W_U is centred over the vocabulary, as the authors' weights are.
    """
    W_U = hf.lm_head.weight.T * hf.model.norm.weight[:, None]
    W_U = W_U - W_U.mean(1, keepdim=True) if centred else W_U
    unit = W_U / W_U.norm(dim=0)
    parts = []
    for w_out in hf.model.layers[layer].mlp.down_proj.weight.T[neurons].split(64):
        cosines = (w_out / w_out.norm(dim=1, keepdim=True)) @ unit
        mean = cosines.mean(1, dtype=torch.float64)
        off = cosines.double() - mean[:, None]
        square = off * off
        variance = square.mean(1)
        skewness, kurtosis = (square * off).mean(1) / variance**1.5, (square * square).mean(1) / variance**2
        parts.append(torch.stack([mean, variance, skewness, kurtosis]))
    return dict(zip(("mean", "variance", "skewness", "kurtosis"), torch.cat(parts, 1), strict=True))
