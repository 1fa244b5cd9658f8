"""Exact shortcuts: equalities that follow from causality; a file each."""
