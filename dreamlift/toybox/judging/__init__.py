"""The judge, a classifier of renders by category, colour, attribute and azimuth, and the scores computed with it."""
