"""Users' own files, which are not trusted: meshes and pictures."""
