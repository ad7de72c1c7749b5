"""Searching settings: a study of many trials, each of which is a few ordinary runs."""
