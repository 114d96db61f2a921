"""What dreamlift needs of the machine: files, compiled kernels, process settings."""
