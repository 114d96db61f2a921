"""Light and how surfaces reflect it."""
