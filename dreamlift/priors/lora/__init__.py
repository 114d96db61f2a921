"""Low-rank adaptations of a frozen prior, and the users' LoRA and textual-inversion files."""
