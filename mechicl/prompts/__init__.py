"""Prompts that know the positions of their label words, target, texts and template."""

from typing import Any

from mechicl import renamed
from mechicl.prompts.building import Query, Shot, build_prompts
from mechicl.prompts.free import free_prompt
from mechicl.prompts.labels import Score, scoring_tokens
from mechicl.prompts.prompt import Demonstration, Prompt, PromptRows, generator_of
from mechicl.prompts.sets import PromptBatch, PromptSet
from mechicl.prompts.template import Template

__all__ = [
    "Demonstration", "Prompt", "PromptBatch", "PromptRows", "PromptSet", "Query", "Score", "Shot", "Template",
    "build_prompts", "free_prompt", "generator_of", "scoring_tokens",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    return renamed.look_up(__name__, name)
