"""The parts of `gpu.py`: each yields rows, plain dictionaries, as soon as it has measured them."""
