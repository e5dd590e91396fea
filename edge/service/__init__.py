"""A run as a systemd service: configuration file, reload, watchdog."""
