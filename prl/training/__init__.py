"""Rounds, updates and evaluation. Knows no config, no file and no command line."""
