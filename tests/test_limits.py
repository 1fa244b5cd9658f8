"""What will not fit is said before it is tried; saliency and lesions of long prompts fit a small machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mechicl.cli import main
from mechicl.errors import OUT_OF_MEMORY, InputError, out_of_memory
from mechicl.hooks import run
from mechicl.limits import _in_control_groups, check_weights_fit, free_bytes, numbers_in, pass_bytes
from mechicl.models import hooked, load_model
from mechicl.models.names import parameters_of
from mechicl.models.published import name_on_hub
from mechicl.probes import LabelAttention
from mechicl.studies.stages.lesions import Lesions
from tests import tiny
from tests.contract import catalogue
from tests.random_prompts import random_prompts


def test_a_pass_grows_with_the_square_of_the_length() -> None:
    sizes = hooked(tiny.model("gpt2")).sizes
    short, long = pass_bytes(sizes, 10_000, 4), pass_bytes(sizes, 20_000, 4)
    assert 3.5 < long / short < 4
    assert pass_bytes(sizes, 10_000, 2) < short


def test_this_machine_has_memory() -> None:
    free = free_bytes("cpu")
    assert free is None or 2**20 < free < 2**46


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v is Linux's")
def test_an_address_space_that_is_limited_is_not_all_free() -> None:
    """The import of mechicl.limits takes little of the 900 MB; without a limit more is free."""
    code = "from mechicl.limits import free_bytes; print(free_bytes('cpu'))"
    found = [
        int(subprocess.run(["bash", "-c", f"ulimit -v {limit}; exec {sys.executable} -c \"{code}\""],
                           capture_output=True, text=True, check=True).stdout)
        for limit in ("900000", "unlimited")
    ]  # fmt: skip
    assert 0 < found[0] < 900_000 * 1024 < found[1]


@pytest.mark.parametrize(
    ("membership", "files", "room"),
    [
        ("0::/job/step", {"job/memory.max": 1000, "job/memory.current": 700, "job/memory.stat": "inactive_file 50"}, 350),
        ("0::/", {"memory.max": 1000, "memory.current": 700, "memory.stat": "anon 5"}, 300),
        ("0::/job", {"job/memory.max": "max", "job/memory.current": 7, "job/memory.stat": ""}, None),
        (
            "4:memory:/job\n0::/",
            {
                "memory/job/memory.limit_in_bytes": 90, "memory/job/memory.usage_in_bytes": 50,
                "memory/job/memory.stat": "total_inactive_file 7",
            },
            47,
        ),
        ("5:cpu:/job", {}, None),
    ],
    ids=["a parent's limit", "a container", "no limit", "version 1", "another controller"],
)  # fmt: skip
def test_a_control_group_limits_what_is_free(
    membership: str, files: dict[str, object], room: int | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(str(content))
    (tmp_path / "membership").write_text(membership)
    assert min(_in_control_groups(tmp_path, tmp_path / "membership"), default=None) == room
    assert list(_in_control_groups(tmp_path, tmp_path / "absent")) == []


def test_batches_shrink_to_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny.model("gpt2"), random_prompts(6)
    expected = run(model, prompts, [LabelAttention()])
    one = pass_bytes(hooked(model).sizes, max(map(len, prompts)), 4)
    sizes: list[int] = []
    monkeypatch.setattr("mechicl.limits.free_bytes", lambda device: 2 * one)
    with hooked(model).hooks([("hook_embed", lambda value, hook: sizes.append(len(value)))]):
        got = run(model, prompts, [LabelAttention()], batch_size=6)
    assert max(sizes) == 2
    torch.testing.assert_close(got.label_logits, expected.label_logits, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr("mechicl.limits.free_bytes", lambda device: one - 1)
    with pytest.raises(InputError, match="on cpu; use shorter prompts"):
        run(model, prompts)


class OutOfMemoryError(RuntimeError):
    """As PyTorch names the one of a GPU."""


RAN_OUT: list[Exception] = [
    MemoryError(),
    OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("can't start new thread"),
    RuntimeError("std::bad_alloc"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", RAN_OUT, ids=str)
def test_memory_that_runs_out_halves_the_batch_or_is_one_sentence(error: Exception) -> None:
    assert out_of_memory(error)
    model, prompts, sizes = tiny.model("gpt2"), random_prompts(4), []

    def at_most(n: int) -> Any:
        def hook(value: torch.Tensor, hook: Any) -> None:
            sizes.append(len(value))
            if len(value) > n:
                raise error

        return hooked(model).hooks([("hook_embed", hook)])

    expected = run(model, prompts, progress=None)
    if isinstance(error, (RuntimeError, MemoryError)):  # the others are those of imports
        with at_most(1):
            torch.testing.assert_close(run(model, prompts, progress=None).label_logits, expected.label_logits)
        assert sizes.count(1) == len(prompts)
        assert max(sizes) > 1
        with at_most(0), pytest.raises(InputError, match="Memory ran out on a batch of a single prompt"):
            run(model, prompts, progress=None)
        with at_most(0), pytest.raises(InputError, match="Memory ran out"):
            Lesions(kinds=("drop",)).run(model, catalogue.text())


@pytest.mark.parametrize("error", RAN_OUT, ids=str)
def test_the_command_ends_in_the_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("mechicl.cli.app.app", fail)
    with pytest.raises(SystemExit) as leaving:
        main()
    assert (leaving.value.code, capsys.readouterr().err) == (2, f"mechicl: {OUT_OF_MEMORY}\n")


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ImportError("no module named x"), SystemError("odd")]
)
def test_other_errors_are_ours(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    assert not out_of_memory(error)
    monkeypatch.setattr("mechicl.cli.app.app", fail)
    with pytest.raises(type(error)):
        main()


_RUN = "run norms --model tiny-icl --text tiny-icl --tokens 500 --length 32"


def limited(kilobytes: int, out: Path) -> subprocess.CompletedProcess[str]:
    command = f"from mechicl.cli import main; import sys; sys.argv[1:] = '{_RUN} --out {out}'.split(); main()"
    shell = f'ulimit -v {kilobytes}; OMP_NUM_THREADS=1 exec {sys.executable} -c "{command}"'
    return subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v is Linux's")
@pytest.mark.parametrize("kilobytes", [300_000, 1_000_000, 1_300_000])
def test_where_pytorch_cannot_be_imported_one_sentence_says_so(kilobytes: int, tmp_path: Path) -> None:
    done = limited(kilobytes, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "address space, and `ulimit -v` leaves" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v is Linux's")
@pytest.mark.parametrize("kilobytes", [1_420_000, 1_500_000, 2_200_000, 3_000_000])
def test_a_limited_address_space_is_enough_or_one_sentence(kilobytes: int, tmp_path: Path) -> None:
    done = limited(kilobytes, tmp_path / "out")
    assert done.returncode in ((0,) if kilobytes > 1_450_000 else (0, 2)), done.stderr
    assert "Traceback" not in done.stderr


def test_weights_that_do_not_fit_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.huggingface("gpt2").save_pretrained(tmp_path)
    count = sum(p.numel() for p in tiny.huggingface("gpt2").parameters())
    monkeypatch.setattr("mechicl.limits.free_bytes", lambda device: 2 * 4 * count - 1)
    with pytest.raises(InputError, match="use dtype='bfloat16'"):
        load_model(tmp_path)
    check_weights_fit(tmp_path, numbers_in([tmp_path / "model.safetensors"]), 2, "cpu")


@pytest.mark.parametrize("family", tiny.families)
def test_parameters_are_counted_by_the_configuration_alone(family: str, tmp_path: Path) -> None:
    tiny.huggingface(family).config.save_pretrained(tmp_path)
    assert parameters_of(tmp_path) == sum(p.numel() for p in tiny.huggingface(family).parameters())


def test_a_model_of_the_hub_is_sized_before_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2 XL by its configuration: 1.56 billion parameters, counted in no memory; what cannot fit is not fetched."""
    from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

    xl = GPT2Config(n_layer=48, n_head=25, n_embd=1600)
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda name, **_: {name_on_hub("gpt2-xl"): xl}[name])
    monkeypatch.setattr("mechicl.limits.free_bytes", lambda device: 8 * 2**30)
    assert parameters_of(name_on_hub("gpt2-xl")) == 1_557_611_200
    assert parameters_of("openai-community/no-such") is None
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: f"{'0' * 40}/config.json")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(InputError, match=r"gpt2-xl does not fit: estimated memory 11\.6 GiB, free memory 8\.0 GiB"):
        load_model("gpt2-xl")


_LONG = """
import json, resource, sys, torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
import numpy as np
from mechicl.engines.wavefront import lesion_sweep
from mechicl.hooks import run
from mechicl.patches import Drop
from mechicl.probes import SaliencyFlow
from mechicl.prompts import Prompt

cfg = HookedTransformerConfig(n_layers=12, d_model=768, n_ctx=1024, d_head=64, n_heads=12, d_vocab=50257, d_mlp=3072,
                              act_fn="gelu_new", normalization_type="LN", seed=0, device="cpu", model_name="small")
model = HookedTransformer(cfg)
tokens = np.random.default_rng(0).integers(0, 50257, 1024).tolist()
if sys.argv[1] == "saliency":
    seen = run(model, [Prompt.from_positions(tokens, [[100], [900]], [1, 2], 0)] * 2, [SaliencyFlow()], progress=None)
    assert seen[SaliencyFlow()].shape == (2, 12)
else:
    kl = lesion_sweep(model, torch.tensor([tokens]), [Drop(i) for i in range(12)]).kl
    assert kl.shape == (12, 1, 1024) and bool(kl.isfinite().all())
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss counts KiB on Linux")
@pytest.mark.parametrize("what", ["saliency", "lesions"])
def test_1024_tokens_of_a_small_gpt2_stay_below_4_gb(what: str) -> None:
    """12 layers, 768 wide, 50,257 words, 1,024 tokens: two prompts' saliency, and all twelve layer drops."""
    done = subprocess.run([sys.executable, "-c", _LONG, what], capture_output=True, text=True, check=True)
    peak = json.loads(done.stdout.splitlines()[-1]) * 1024
    print(f"{what}: {peak / 1e9:.2f} GB")
    assert peak < 4e9
