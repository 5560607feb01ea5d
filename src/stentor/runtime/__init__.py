"""What every component stands on: configuration, supervised jobs, health, logs, metrics."""
