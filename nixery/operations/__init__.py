"""What an operator sees of the daemon: metrics, logs and readiness."""
