"""One file per paper: its systems for large models, each a complete config."""
