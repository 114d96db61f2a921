"""Teaching a prior something new without touching its weights."""
