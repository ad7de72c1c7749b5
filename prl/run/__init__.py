"""A whole run, and what is written about it."""
