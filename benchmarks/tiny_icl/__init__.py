"""How tiny-icl was trained and how good it is; what runs at use lies in `mechicl.shipped`."""
