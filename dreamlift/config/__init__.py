"""The settings, and how they are read and written."""
