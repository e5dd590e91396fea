"""What other machines are told: MQTT, and metrics for Prometheus."""
