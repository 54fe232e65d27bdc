"""Measuring the zoo."""
