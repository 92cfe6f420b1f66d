"""What the daemon and systemd tell each other."""
