"""3D Gaussians, rendered by splatting."""
