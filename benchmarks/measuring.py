"""What the benchmarks of the second paper share: a random model, the machine's own rate, a clock, a separate process.

With OMP_NUM_THREADS=1 on a CPU the clock counts the processor's time for this process instead of the time on the
wall, so that a machine which others use too gives numbers that can be compared.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

SIZES = {"gpt2": (12, 768), "gpt2-xl": (48, 1600)}
"""Layers and width."""
VOCABULARY = 50257

Value = TypeVar("Value")


def arguments(description: str | None, tokens: int, length: int) -> argparse.ArgumentParser:
    """Options that every script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=tokens)
    parser.add_argument("--length", type=int, default=length, help="tokens of a text")
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--n-layers", type=int, help="instead of the size's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="of our way, between the authors' rows")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    return parser


def random_model(asked: argparse.Namespace) -> HookedTransformer:
    """A GPT-2 of the size asked for with random weights, frozen."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig  # which TransformerLens 4 has not

    layers, width = SIZES[asked.size]
    cfg = HookedTransformerConfig(
        n_layers=asked.n_layers or layers, d_model=width, d_head=64, n_heads=width // 64, d_mlp=4 * width, n_ctx=1024,
        d_vocab=VOCABULARY, act_fn="gelu_new", normalization_type="LN", seed=0, device=asked.device,
        dtype=getattr(torch, asked.dtype),
    )  # fmt: skip
    return HookedTransformer(cfg).eval().requires_grad_(False)


def random_texts(asked: argparse.Namespace) -> Tensor:
    """Token ids, [text pos]."""
    shape = (max(1, asked.tokens // asked.length), min(asked.tokens, asked.length))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, VOCABULARY, shape, generator=generator).to(asked.device)


class Clock:
    """Seconds of everything timed, by name, so that what is compared may be measured in turns."""

    def __init__(self, device: str) -> None:
        self.device = device
        alone = device == "cpu" and torch.get_num_threads() == 1
        self.now = time.process_time if alone else time.perf_counter
        self.seconds: dict[str, list[float]] = {}

    def time(self, name: str, call: Callable[[], Value]) -> Value:
        self._wait()
        start = self.now()
        value = call()
        self._wait()
        self.seconds.setdefault(name, []).append(self.now() - start)
        return value

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def median(self, name: str) -> float:
        return median(self.seconds[name])

    def total(self, *names: str) -> float:
        return sum(sum(self.seconds[name]) for name in names)


def interleaved(steps: Iterable[object], turns: int) -> Iterator[int]:
    """Go through all steps, and stop `turns` times on the way."""
    for index, _ in enumerate(steps):
        if index < turns:
            yield index


class Rate:
    """The machine's own matrix product, of an MLP's shape, in floating point operations a second."""

    def __init__(self, model: HookedTransformer, clock: Clock) -> None:
        cfg = model.cfg
        self.clock = clock
        self.a = torch.randn(2048, cfg.d_model, device=cfg.device, dtype=cfg.dtype)
        self.b = torch.randn(cfg.d_model, cfg.d_mlp, device=cfg.device, dtype=cfg.dtype)
        self.out = self.a @ self.b
        self.operations = 2 * self.a.shape[0] * self.b.numel()

    def measure(self, times: int = 5) -> None:
        for _ in range(times):
            self.clock.time("product", lambda: torch.mm(self.a, self.b, out=self.out))

    def share(self, operations: float, name: str) -> float:
        """Which share of this rate something timed reached."""
        return operations / self.clock.median(name) * self.clock.median("product") / self.operations


def block_operations(model: HookedTransformer, length: int) -> float:
    """Of one block for one token: products with weights, and causal attention over half of the text on average."""
    cfg = model.cfg
    return 2 * (4 * cfg.d_model**2 + 2 * cfg.d_model * cfg.d_mlp) + 2 * length * cfg.d_model


def unembedding_operations(model: HookedTransformer) -> float:
    """Of one token's logits."""
    return 2 * model.cfg.d_model * model.cfg.d_vocab


class Memory:
    """The most memory that is held while something runs, GiB, and what was held before: this process's own (Linux), or
    the GPU's.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self._done = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()  # the peak is then what is held now
        self.before = self.most = self._held()
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.most = max(self.most, self._held())

    def _held(self) -> float:
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 2**30
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**30


def in_own_process(options: Sequence[str]) -> str:
    """What the script prints when only our way runs: memory that others took before does not count there."""
    command = [sys.executable, sys.argv[0], "--alone", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]


def machine(model: HookedTransformer, rate: Rate) -> str:
    """One line that says what was measured on."""
    cfg = model.cfg
    name = torch.cuda.get_device_name() if str(cfg.device).startswith("cuda") else f"{torch.get_num_threads()} threads"
    gflops = rate.operations / rate.clock.median("product") / 1e9
    return (
        f"random GPT-2, {cfg.n_layers} layers, width {cfg.d_model}, {str(cfg.dtype).removeprefix('torch.')}, {name}; "
        f"matrix product {gflops:.0f} GFLOP/s; torch {torch.__version__}"
    )


def row(*cells: object) -> None:
    """One row of a table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
