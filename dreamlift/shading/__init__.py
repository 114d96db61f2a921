"""Lights, environments, and reflection models of surfaces."""
