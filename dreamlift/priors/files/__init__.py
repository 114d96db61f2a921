"""Files of weights and settings: what they are, which of a folder belong to a network, and their contents, checked."""
