"""Look at one prompt in one model: in a notebook a widget that asks the kernel, elsewhere a page that needs none."""

from mechicl.explorer.explorer import Explorer, explore
from mechicl.explorer.scan import Scan, scan

__all__ = ["Explorer", "Scan", "explore", "scan"]
