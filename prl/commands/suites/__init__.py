"""What `prl benchmark` measures: a module per suite, and what they share."""
