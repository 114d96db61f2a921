"""From where a photo was taken, and where its object lies in the frame of a view-conditioned prior."""
