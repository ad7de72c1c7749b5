"""What `prl doctor` looks at besides the env: networks, workers, the machine, speed; and its advice."""
