"""External files and our own: JSON, rows of data, saved tensors; all contents are validated."""
