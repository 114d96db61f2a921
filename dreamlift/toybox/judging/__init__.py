"""The judge: a network that tells what an asset looks like, and from which side."""
