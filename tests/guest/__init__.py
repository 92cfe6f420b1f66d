"""The units on a Debian whose process 1 is systemd."""
