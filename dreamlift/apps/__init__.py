"""The command line's functions other than runs: evaluation, gallery, presets, doctor."""
