"""One paper's system a file, each row written out whole, for big models."""
