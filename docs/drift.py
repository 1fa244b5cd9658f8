"""Measure how far half-precision models drift from float32; the page `precision.md` shows the table.

python docs/drift.py        (make docs-figures)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

import mechicl as mi

SHARED = Path(os.environ.get("MECHICL_SHARED", Path(__file__).parents[2] / "shared"))
MODELS = ("tiny-icl", "stories260K", "ts-instruct-3M", "tiny-gpt2", "tiny-gptj", "tiny-neox")
HALVES = ("bfloat16", "float16")
PAGE = Path(__file__).parent / "pages" / "precision.json"

STATISTICS: dict[str, tuple[str, Callable[..., Any], Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "S_wp, S_pq, S_ww (shares)": ("prompts", mi.information_flow, lambda rows: rows),
    "AUROC": ("prompts", mi.studies.deep_layers, lambda rows: rows[rows["metric"] == "AUCROC"]),
    "label loyalty": (
        "prompts",
        lambda model, prompts: mi.isolation(model, prompts, n_layers=(1, 2)),
        lambda rows: rows[rows["metric"] == "label_loyalty"],
    ),
    "word loyalty, k = 5": (
        "prompts",
        lambda model, prompts: mi.isolation(model, prompts, n_layers=(1, 2)),
        lambda rows: rows[rows["metric"] == "word_loyalty_5"],
    ),
    "lens KL": ("text", mi.logit_lens, lambda rows: rows[(rows["metric"] == "kl") & (rows["lens"] == "corrected")]),
    "KL of a dropped layer": (
        "text",
        lambda model, text: mi.layer_lesions(model, text, kinds=("drop",)),
        lambda rows: rows[rows["metric"] == "kl"],
    ),
    "norms": (
        "text",
        mi.studies.norms,
        lambda rows: rows[rows["metric"].isin(["mlp_norm", "attn_norm", "resid_pre_norm"])],
    ),
}
"""What is measured: on what, by which study, and which rows of its summary."""


def material(name: str, model: Any) -> dict[str, Any]:
    """32 prompts, and 500 tokens of text, in a language that the model speaks."""
    own = name == "tiny-icl"
    task = mi.load_task("tiny-topics-4") if own else mi.load_task("sst2", data=SHARED / "data" / "sst2")
    text = "tiny-icl" if own else SHARED / "data" / "text"
    return {
        "prompts": task.prompts(model.tokenizer, samples=32, n_ctx=model.cfg.n_ctx, too_long="shorter"),
        "text": mi.load_corpus(
            model.tokenizer, text, prepend_bos=True, n_ctx=min(64, model.cfg.n_ctx), tokens=500, seed=0
        ),
    }


def drifts(name: str) -> Iterator[dict[str, Any]]:
    """A row per statistic and dtype: the largest difference of a mean, and the largest mean of the same statistic."""
    folder = name if name == "tiny-icl" else str(SHARED / "models" / name)
    models = {dtype: mi.load_model(folder, dtype=dtype) for dtype in ("float32", *HALVES)}
    given = material(name, models["float32"])
    for statistic, (reads, study, chosen) in STATISTICS.items():
        try:
            means = {d: chosen(study(m, given[reads]).summary())["mean"].to_numpy() for d, m in models.items()}
        except mi.InputError as error:  # such as a single class predicted, which has no AUCROC
            print(f"{name}, {statistic}: {error}")
            continue
        if not len(means["float32"]):
            print(f"{name}: no {statistic}")
            continue
        for dtype in HALVES:
            yield {
                "model": name, "statistic": statistic, "dtype": dtype,
                "drift": float(abs(means[dtype] - means["float32"]).max()),
                "largest": float(abs(means["float32"]).max()),
            }  # fmt: skip


def table() -> str:
    """The drifts as Markdown: a row per statistic, the worst model's number and the shipped model's."""
    rows = pd.DataFrame(json.loads(PAGE.read_text()))
    rows["relative"] = rows["drift"] / rows["largest"].where(~rows["statistic"].map(_is_share), 1.0)
    lines = [
        "| statistic | difference | tiny-icl, bfloat16 | tiny-icl, float16 | worst, bfloat16 | worst, float16 |",
        "|---|---|---|---|---|---|",
    ]
    for statistic in dict.fromkeys(rows["statistic"]):
        own = rows[rows["statistic"] == statistic]
        shipped = own[own["model"] == "tiny-icl"].set_index("dtype")["relative"]
        worst = own.loc[own.groupby("dtype")["relative"].idxmax()].set_index("dtype")
        unit = "absolute, of 1" if _is_share(statistic) else "relative to the largest"
        told = [f"{shipped[d]:.1e}" if d in shipped else "-" for d in HALVES]
        told += [f"{worst.loc[d, 'relative']:.1e} ({worst.loc[d, 'model']})" for d in HALVES]
        lines.append(f"| {statistic} | {unit} | {' | '.join(told)} |")
    return "\n".join(lines)


def measured() -> list[str]:
    """The models that are in the table."""
    return list(dict.fromkeys(row["model"] for row in json.loads(PAGE.read_text())))


def _is_share(statistic: str) -> bool:
    return statistic.startswith(("S_wp", "AUROC", "label", "word"))


def main() -> None:
    """Measure all, and keep the numbers for the page."""
    there = [name for name in MODELS if name == "tiny-icl" or (SHARED / "models" / name).is_dir()]
    rows: list[dict[str, Any]] = []
    for name in there:
        rows += drifts(name)
        PAGE.write_text(json.dumps(rows, indent=1) + "\n")
    print(table())


if __name__ == "__main__":
    main()
