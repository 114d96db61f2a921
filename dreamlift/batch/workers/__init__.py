"""Who makes the assets of a batch: processes of this machine, or actors of a Ray cluster."""
