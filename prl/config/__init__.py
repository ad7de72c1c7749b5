"""Settings: the dataclass of a run, presets, and how flags and files fill it."""
