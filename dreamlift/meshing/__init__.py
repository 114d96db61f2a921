"""Triangle meshes: extraction from fields, measures, cleaning, closing and nearest points."""
