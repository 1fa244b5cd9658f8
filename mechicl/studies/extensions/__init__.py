"""Beyond both papers: which heads, what is carried, when it is decided. A file each."""
