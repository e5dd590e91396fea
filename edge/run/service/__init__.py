"""A run that is configured by a file and watched by systemd."""
