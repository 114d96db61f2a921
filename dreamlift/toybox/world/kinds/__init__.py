"""The builders of the toybox's categories, by group."""
