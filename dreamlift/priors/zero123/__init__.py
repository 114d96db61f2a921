"""Zero-1-to-3's family: priors that draw the object in a picture from other sides (Liu et al. 2023, arXiv 2303.11328)."""
