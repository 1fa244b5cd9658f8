"""Studies beyond both papers, one file each: which heads matter, what label words carry, when the answer is decided."""
