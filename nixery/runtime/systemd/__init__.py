"""The protocols of systemd: notification, watchdog, sockets, credentials, journal."""
