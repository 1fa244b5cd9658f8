"""The `mechicl` command line."""

from mechicl.cli.app import main

__all__ = ["main"]
