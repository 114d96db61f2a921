"""Reading users' files, which are not trusted: meshes and pictures."""
