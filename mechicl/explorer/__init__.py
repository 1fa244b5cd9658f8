"""Explore one prompt in one model: in a notebook as a widget that asks the kernel, elsewhere as a standalone page."""

from mechicl.explorer.explorer import Explorer, explore
from mechicl.explorer.scan import Scan, scan

__all__ = ["Explorer", "Scan", "explore", "scan"]
