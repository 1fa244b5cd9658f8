"""*Label Words are Anchors* (Wang et al., EMNLP 2023); an experiment a file."""
