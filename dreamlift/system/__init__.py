"""Access to the machine: atomic file writes, compiled CPU kernels, process settings."""
