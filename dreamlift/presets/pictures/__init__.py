"""Presets that begin with a photo, each with the settings of its paper's repository."""
