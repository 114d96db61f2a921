"""What the command line offers beside runs: evaluation, gallery, presets, doctor."""
