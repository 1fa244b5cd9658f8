"""*Label Words are Anchors* (Wang et al., EMNLP 2023); one experiment per file."""
