"""The recipe that made the shipped weights: `python -m benchmarks.tiny_icl.train --out DIR --seed 0`.

Every step mixes running text with classification sequences of the current lesson. The data of a step
depend only on the seed and the step's number, so a run that was stopped resumes exactly from its
checkpoint.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.tiny_icl import tokens
from benchmarks.tiny_icl.classification import draw_sequence
from benchmarks.tiny_icl.curriculum import LESSONS, MASTERED, Lesson, training_batch
from benchmarks.tiny_icl.export import export
from benchmarks.tiny_icl.grammar import sample_tokens
from benchmarks.tiny_icl.network import Network, Sizes
from mechicl.errors import InputError

REPEATED = 0.15  # how often half a batch repeats an earlier lesson, so that it is not forgotten


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, apart from the seed."""

    steps: int = 3_200
    warmup: int = 100
    decay_from: float = 0.5  # the share of the steps after which the learning rate falls to zero
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    answer_tokens: int = 3_072  # classification tokens a step
    running_rows: int = 2
    running_length: int = 512
    other_weight: float = 0.05  # of classification tokens that are not answers
    check_every: int = 25
    save_every: int = 100
    skip_from: int = 2_000  # the step from which blocks are skipped at random
    skip_probability: float = 0.15
    never_skipped: int = 2  # the first blocks, which make words of syllables and gather them
    layers: int = 6
    d_model: int = 128


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, a plateau, and a cosine to zero."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    start = recipe.decay_from * recipe.steps
    done = max(0.0, (step - start) / (recipe.steps - start))
    return recipe.learning_rate * 0.5 * (1 + float(np.cos(np.pi * done)))


class Training:
    """The state of a run: network, optimiser, step and lesson; `advance` does one step."""

    def __init__(self, recipe: Recipe, seed: int, device: str) -> None:
        self.recipe, self.seed, self.device = recipe, seed, device
        self.step = self.lesson = 0
        sizes = Sizes(len(tokens.vocabulary()), recipe.layers, recipe.d_model, d_mlp=4 * recipe.d_model)
        self.network = Network(sizes)
        self.network.initialise(torch.Generator().manual_seed(seed))
        self.network.to(device)
        matrices = [p for p in self.network.parameters() if p.dim() == 2]
        vectors = [p for p in self.network.parameters() if p.dim() == 1]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)

    def advance(self) -> dict[str, float]:
        """One optimisation step; returns its losses in nats.

        Its two halves run side by side, one core each: threads that meet once a step lose less to a busy machine
        than threads that meet in every matrix product.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        with ThreadPoolExecutor(2) as pool:
            halves = list(pool.map(self._half, range(2)))
        for parameter, first, second in zip(self.network.parameters(), *(h[1] for h in halves), strict=True):
            parameter.grad = (first + second) / 2
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.step += 1
        return {name: (halves[0][0][name] + halves[1][0][name]) / 2 for name in halves[0][0]}

    def _half(self, which: int) -> tuple[dict[str, float], tuple[Tensor, ...]]:
        """Losses and gradients of half a step's data, which depend on nothing but seed, step and half."""
        rng = np.random.default_rng([self.seed, self.step, which])
        skipped = self._skipped(rng)
        answer, other = self._classification_loss(rng, skipped)
        running = self._running_loss(rng, skipped)
        loss = answer + self.recipe.other_weight * other + running
        gradients = torch.autograd.grad(loss, list(self.network.parameters()), materialize_grads=True)
        return {"answer": answer.item(), "other": other.item(), "running": running.item()}, gradients

    def _skipped(self, rng: np.random.Generator) -> list[int]:
        """Blocks to leave out. Otherwise one block does all the reading of labels and the later ones none."""
        if self.step < self.recipe.skip_from:
            return []
        later = np.arange(self.recipe.never_skipped, self.recipe.layers)
        chosen: list[int] = later[rng.random(len(later)) < self.recipe.skip_probability].tolist()
        return chosen

    def _losses(self, rows: NDArray[np.int64], skipped: list[int]) -> Tensor:
        """Cross-entropy of every token but the first, `batch pos-1`."""
        batch = torch.from_numpy(rows).to(self.device)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            logits = self.network(batch[:, :-1], skipped)
        flat = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        return flat.view(len(rows), -1)

    def _classification_loss(self, rng: np.random.Generator, skipped: list[int]) -> tuple[Tensor, Tensor]:
        lesson = LESSONS[self.lesson]
        if self.lesson and rng.random() < REPEATED:
            lesson = LESSONS[int(rng.integers(self.lesson))]
        batch = training_batch(lesson, self.recipe.answer_tokens // 2, rng)
        losses = self._losses(batch.tokens, skipped)
        is_answer = torch.from_numpy(batch.is_answer[:, 1:]).to(self.device)
        is_other = torch.from_numpy(batch.is_other[:, 1:]).to(self.device)
        return losses[is_answer].mean(), losses[is_other].mean()

    def _running_loss(self, rng: np.random.Generator, skipped: list[int]) -> Tensor:
        rows = sample_tokens(self.recipe.running_rows // 2, self.recipe.running_length, rng)
        return self._losses(rows, skipped).mean()

    def consider_next_lesson(self) -> float:
        """Accuracy on held-out mappings and texts of the current lesson; moves on when it is mastered."""
        accuracy = lesson_accuracy(self.network, LESSONS[self.lesson], self.device)
        if accuracy > MASTERED and self.lesson + 1 < len(LESSONS):
            self.lesson += 1
        return accuracy

    def save(self, path: Path) -> None:
        """Write everything that `load` needs, atomically."""
        tensors = {f"network.{k}": v.contiguous() for k, v in self.network.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": v for k, v in state.items()}
        facts = {"step": str(self.step), "lesson": str(self.lesson), "seed": str(self.seed)}
        part = path.with_suffix(".part")
        save_file(tensors, part, metadata=facts)
        part.replace(path)

    def keep(self, path: Path) -> None:
        """Save, and export the model of this step next to it, for studies over the steps of training."""
        self.save(path)
        export(path, path.parent / "steps" / f"step{self.step}")

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of the same recipe and seed."""
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if int(facts["seed"]) != self.seed:
            raise InputError(f"{path} was made with seed {facts['seed']}, not {self.seed}.")
        self.step, self.lesson = int(facts["step"]), int(facts["lesson"])
        self.network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k[0] == "n"})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, index, field = name.split(".")
                state.setdefault(int(index), {})[field] = value
        whole = self.optimiser.state_dict()
        self.optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def lesson_accuracy(network: Network, lesson: Lesson, device: str, sequences: int = 100) -> float:
    """Accuracy at one shot with the lesson's number of classes, among the sequence's labels."""
    rng = np.random.default_rng(0)
    right = 0
    with torch.no_grad():
        for _ in range(sequences):
            sequence = draw_sequence(lesson.classes, 1, 1, lesson.shape, "test", rng)
            logits = network(torch.tensor([sequence.ids[:-1]], device=device))[0, -1]
            right += int(logits[sequence.labels].argmax()) == sequence.classes[-1]
    return right / sequences


def train(recipe: Recipe, seed: int, out: Path, device: str) -> Training:
    """Run, or resume, a training; `out` receives `log.jsonl`, `checkpoint.safetensors` and the models in `steps`."""
    out.mkdir(parents=True, exist_ok=True)
    run, checkpoint = Training(recipe, seed, device), out / "checkpoint.safetensors"
    if checkpoint.exists():
        run.load(checkpoint)
    else:
        run.keep(checkpoint)
    began = time.time()
    with (out / "log.jsonl").open("a") as log:
        while run.step < recipe.steps:
            record: dict[str, Any] = run.advance()
            if run.step % recipe.check_every == 0:
                lesson = LESSONS[run.lesson].name
                record |= {"step": run.step, "lesson": lesson, "held_out": run.consider_next_lesson()}
                record |= {"seconds": round(time.time() - began, 1)}
                log.write(json.dumps(record) + "\n")
                log.flush()
            if run.step % recipe.save_every == 0 or run.step == recipe.steps:
                run.keep(checkpoint)
    return run


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the log and the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)  # each half of a step has a core to itself
    train(Recipe(steps=given.steps), given.seed, given.out, given.device)


if __name__ == "__main__":
    main()
