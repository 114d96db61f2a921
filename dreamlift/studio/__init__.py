"""The studio: runs that are started, watched while they are made, and opened again in a browser (docs/studio.md)."""
