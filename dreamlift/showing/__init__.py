"""Pictures of finished assets: camera paths, videos, sheets of variations, and what differs between runs."""
