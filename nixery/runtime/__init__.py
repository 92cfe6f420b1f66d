"""Start-up, worker pools, Deferreds, listeners and other services of one process."""
